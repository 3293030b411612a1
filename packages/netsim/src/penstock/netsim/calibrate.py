"""Fits the positive figures of a model to measured times, and reports how well it predicts times it did not see.

Errors are relative: an error of 10 us on 100 us weighs as much as one of 1 ms on 10 ms. The logarithms of the figures
are fitted by Levenberg-Marquardt, so the figures stay positive.

Shape suffixes: P parameters, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

Model = Callable[[Floats, Indices], Floats]
"""Seconds of the rows with the given indices, for the given figures."""

_SMALLEST = 1e-6  # relative to the first guess: a figure that the data drives to zero stops here, not at exp(-700)


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted figures, and for each row the model's prediction when fitted to all rows and to all other rows."""

    figures_P: Floats
    fitted_R: Floats
    left_out_R: Floats


def fit(model: Model, guess_P: Floats, measured_R: Floats, rows: Indices) -> Floats:
    """Figures that minimise the sum of squares of log(predicted / measured) over `rows`."""
    measured = np.log(measured_R[rows])
    lowest, log_P = np.log(_SMALLEST * guess_P), np.log(guess_P)
    damping = 1e-2

    def residuals(values: Floats) -> Floats:
        return np.log(model(np.exp(values), rows)) - measured

    off = residuals(log_P)
    for _ in range(200):
        slopes = np.stack([(residuals(log_P + step) - off) / 1e-6 for step in 1e-6 * np.eye(len(log_P))], axis=1)
        curvature = slopes.T @ slopes
        damped = curvature + damping * (np.diag(np.diag(curvature)) + 1e-9 * np.eye(len(log_P)))
        step = np.linalg.solve(damped, slopes.T @ off)
        tried = np.maximum(log_P - np.clip(step, -2, 2), lowest)
        after = residuals(tried)
        gain = off @ off - after @ after
        if gain >= 0:
            done = gain <= 1e-12 * max(off @ off, 1e-12) and np.abs(step).max() < 1e-6
            log_P, off, damping = tried, after, max(damping / 3, 1e-9)
            if done:
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    return np.exp(log_P)


def leave_one_out(model: Model, guess_P: Floats, measured_R: Floats) -> Fit:
    """Fits all rows, and each row's prediction from a fit to the others."""
    rows = np.arange(len(measured_R))
    figures_P = fit(model, guess_P, measured_R, rows)
    left_out = [model(fit(model, guess_P, measured_R, np.delete(rows, row)), rows[row : row + 1]) for row in rows]
    return Fit(figures_P, model(figures_P, rows), np.concatenate(left_out))
