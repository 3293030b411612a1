"""The results of a sweep for other programs, such as plugins, which need no package but this one to read them."""

from __future__ import annotations

from pathlib import Path

from penstock.hooks.problems import Problem, ProblemError
from penstock.run.records.record import read_record
from penstock.run.records.sweep import CellFigures, SweepFigures
from penstock.sweep.files import FIGURES

__all__ = ["CellFigures", "SweepFigures", "read_figures"]


def read_figures(sweep: Path) -> SweepFigures:
    """The figures of the sweep in a folder, finished or in progress; raises `ProblemError` if the folder has none."""
    figures = read_record(SweepFigures, sweep / FIGURES)
    if figures is None:
        fix = "name the folder of a sweep that has begun, such as runs/NAME"
        raise ProblemError(Problem("missing-file", f"no {FIGURES} in the folder", str(sweep), fix))
    return figures
