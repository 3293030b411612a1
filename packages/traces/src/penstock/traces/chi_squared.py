"""The quantile of the chi-squared distribution, so that a test of independence needs no scipy.

The distribution function is the series of the lower incomplete gamma function (Abramowitz and Stegun 6.5.29), whose
terms are all positive; Newton's method inverts it from Wilson and Hilferty's approximation, which is within 1 % from 3
degrees on. Equals scipy's `chi2.ppf` within 1e-9, relative, for 1 to 65,025 degrees (256 x 256 experts) and
probabilities from 0.5 to 0.999.
"""

from __future__ import annotations

import math
from itertools import count
from statistics import NormalDist

SMALLEST_TERM = 1e-17
RELATIVE_ERROR = 1e-12
MOST_ITERATIONS = 50


def quantile(probability: float, degrees: int) -> float:
    """The value that a chi-squared variable stays below with this probability; raises ValueError for a
    probability outside (0, 1) or less than one degree of freedom."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"a chi-squared quantile needs 0 < p < 1 and 1 degree or more, not {probability}, {degrees}")
    half = degrees / 2
    x = _wilson_hilferty(probability, degrees) / 2
    for _ in range(MOST_ITERATIONS):
        density = math.exp((half - 1) * math.log(x) - x - math.lgamma(half))
        step = (_lower_gamma(half, x) - probability) / density
        x = max(x - step, x / 10)  # stays above 0, because the density is zero below
        if abs(step) <= RELATIVE_ERROR * x:
            break
    return 2 * x


def _wilson_hilferty(probability: float, degrees: int) -> float:
    """The cube root of chi-squared over its degrees is nearly normal (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    root = 1 - spread + NormalDist().inv_cdf(probability) * math.sqrt(spread)
    return degrees * max(root, 0.01) ** 3


def _lower_gamma(half: float, x: float) -> float:
    """The regularised lower incomplete gamma function: x^a e^-x / Gamma(a + 1) * (1 + x / (a + 1) + ...)."""
    term = total = 1.0
    for number in count(1):
        term *= x / (half + number)
        total += term
        if term < SMALLEST_TERM * total:
            break
    return total * math.exp(half * math.log(x) - x - math.lgamma(half + 1))
