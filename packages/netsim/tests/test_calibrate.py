"""Fitting against data that a known model made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.netsim.calibrate import fit, leave_one_out

BYTES_R = np.geomspace(1e3, 1e9, 12)


def line(figures_P, rows_R):
    return figures_P[0] + BYTES_R[rows_R] / figures_P[1]


@settings(deadline=None, max_examples=40)
@given(st.floats(1e-6, 1e-3), st.floats(1e9, 1e12))
def test_figures_that_made_the_data_are_found(latency, bandwidth):
    rows_R = np.arange(12)
    measured_R = line(np.array([latency, bandwidth]), rows_R)
    found_P = fit(line, np.array([2e-5, 5e10]), measured_R, rows_R)
    assert found_P == pytest.approx([latency, bandwidth], rel=1e-4)


def test_a_fit_is_no_worse_than_any_point_of_a_grid():
    rng = np.random.default_rng(0)
    rows_R = np.arange(12)
    measured_R = line(np.array([2e-5, 5e10]), rows_R) * rng.lognormal(0, 0.1, 12)

    def off(figures_P):
        return (np.log(line(figures_P, rows_R) / measured_R) ** 2).sum()

    found_P = fit(line, np.array([1e-6, 1e9]), measured_R, rows_R)
    grid = [np.array([a, b]) for a in np.geomspace(1e-5, 4e-5, 61) for b in np.geomspace(2e10, 1e11, 61)]
    assert off(found_P) <= min(map(off, grid)) + 1e-9


def test_a_row_left_out_is_predicted_without_its_own_measurement():
    rows_R = np.arange(12)
    honest_R = line(np.array([2e-5, 5e10]), rows_R)
    spoilt_R = honest_R.copy()
    spoilt_R[5] *= 3
    found = leave_one_out(line, np.array([1e-5, 1e10]), spoilt_R)
    assert found.left_out_R[5] == pytest.approx(honest_R[5], rel=1e-4)
    assert found.fitted_R[5] > 1.01 * honest_R[5]
