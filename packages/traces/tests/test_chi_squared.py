from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penstock.traces.chi_squared import quantile


@given(st.floats(1e-6, 0.9999), st.integers(1, 66_000))
def test_the_quantile_is_that_of_scipy(probability: float, degrees: int) -> None:
    assert quantile(probability, degrees) == pytest.approx(stats.chi2.ppf(probability, degrees), rel=1e-8)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 3), (1.0, 3), (1.5, 3), (float("nan"), 3), (0.95, 0)])
def test_what_has_no_quantile_is_refused(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="chi-squared"):
        quantile(probability, degrees)
