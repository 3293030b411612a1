"""What the three trackers share: a check that the library is there, and a copy of the rows.

None of the libraries can forget a row. A resumed run that is about to do steps again starts its record anew from the
rows that still hold, which are kept beside it.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path

from penstock.hooks.problems import ExitCode, Problem, ProblemError

Row = tuple[int, dict[str, float]]


def require(library: str) -> None:
    """Raises `ProblemError` where the library of a tracker is not installed; imports nothing."""
    if importlib.util.find_spec(library) is None:
        fix = f'`uv add "penstock-trackers[{library}]"` installs it'
        problem = Problem("missing-library", f"tracker '{library}' needs the library {library}", "train.trackers", fix)
        raise ProblemError(problem, ExitCode.PLUGIN)


class History:
    """The rows that were logged, in a file of JSON lines. A line is whole once it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([step, dict(metrics)]) + "\n")

    def rewind(self, step: int) -> list[Row] | None:
        """The rows up to `step`, where there are later ones, which are dropped; None where there are none."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)[0] <= step]
        if kept == lines:
            return None
        temporary = self.path.with_suffix(".new")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(self.path)
        return [(row[0], row[1]) for row in map(json.loads, kept)]


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers: databases refuse the others, and dashboards cannot draw them."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
