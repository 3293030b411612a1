"""What trials of a study have reported, as what a stop rule reads.

A report of a trial at a step is kept in its user attributes: its value, its costs and the bits of each held-out
document. A plain report of Optuna is a value without documents, on which a rule that pairs documents can only bound the
share that goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from penstock.hooks.contracts import Standing
from penstock.hooks.problems import Problem, ProblemError

PREFIX = "penstock:"
"""Of user attributes: `penstock:STEP` has the report at a step."""


@dataclass(frozen=True, slots=True)
class Report:
    """A value to minimise, the costs of the trial beside it, and the bits and bytes of each held-out document."""

    value: float
    costs: tuple[float, ...] = ()
    document_bits: tuple[float, ...] = ()
    document_bytes: tuple[int, ...] = ()

    @property
    def bad_figure(self) -> str:
        """Which figure is no finite number; empty if all are."""
        named = [("value", self.value), *(("cost", each) for each in self.costs)]
        named += [("bits of a document", each) for each in self.document_bits]
        return next((f"the {name} became {each}" for name, each in named if not math.isfinite(each)), "")

    def unlike(self, other: Report) -> str:
        """Why no rule can compare the two; empty if one can."""
        if len(self.costs) != len(other.costs):
            return f"{len(self.costs)} costs, and {len(other.costs)}"
        if self.document_bytes != other.document_bytes:
            return f"{len(self.document_bytes)} documents, and other {len(other.document_bytes)}"
        return ""

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "costs": list(self.costs),
            "document_bits": list(self.document_bits),
            "document_bytes": list(self.document_bytes),
        }


def attribute(step: int) -> str:
    return f"{PREFIX}{step}"


def reports_of(trial: FrozenTrial, sign: float) -> dict[int, Report]:
    """The finite reports of a trial by step, in order; `sign` is -1 for values to maximise."""
    found = {step: Report(sign * value) for step, value in trial.intermediate_values.items()}
    for name, told in trial.user_attrs.items():
        if name.startswith(PREFIX):
            documents = (tuple(told["document_bits"]), tuple(told["document_bytes"]))
            found[int(name.removeprefix(PREFIX))] = Report(sign * told["value"], tuple(told["costs"]), *documents)
    return {step: found[step] for step in sorted(found) if not found[step].bad_figure}


def required_rungs(rungs: Sequence[int] | None) -> tuple[int, ...] | None:
    """Rungs in which each is above the one before and the first above 0; raises `ProblemError` for others."""
    if rungs is None:
        return None
    if not rungs or rungs[0] < 1 or any(one >= other for one, other in itertools.pairwise(rungs)):
        what = f"rungs are {list(rungs)}"
        raise ProblemError(
            Problem("bad-value", what, "rungs", "give steps above 0 that rise, or None for every report")
        )
    return tuple(rungs)


def by_rung(reports: Mapping[int, Report], rungs: Sequence[int] | None) -> dict[int, int]:
    """The step of the first report at or beyond each rung, and before the next one. Each step is a rung without
    rungs.

    >>> by_rung({30: Report(1), 150: Report(1), 170: Report(1), 200: Report(1)}, [100, 200])
    {100: 150, 200: 200}
    """
    found: dict[int, int] = {}
    for step in reports:
        rung = step if rungs is None else max((each for each in rungs if each <= step), default=None)
        if rung is not None:
            found.setdefault(rung, step)
    return found


def standings_at(
    trials: Mapping[str, Mapping[int, Report]], rung: int, rungs: Sequence[int] | None, whole: int
) -> list[Standing]:
    """The trials that have reported at a rung. Their history are their reports at earlier rungs."""
    standings: list[Standing] = []
    for name, reports in trials.items():
        steps = by_rung(reports, rungs)
        if rung not in steps:
            continue
        earlier: tuple[Standing, ...] = ()
        for step in (step for at, step in steps.items() if at < rung):
            earlier = (*earlier, _standing(name, step, reports[step], earlier, whole))
        standings.append(_standing(name, steps[rung], reports[steps[rung]], earlier, whole))
    return standings


def _standing(name: str, step: int, report: Report, earlier: tuple[Standing, ...], whole: int) -> Standing:
    return Standing(
        cell=name,
        tokens=step,
        bits_per_byte=report.value,
        perplexity=report.value,
        document_bits=np.array(report.document_bits),
        document_bytes=np.array(report.document_bytes),
        tokenizer="",
        history=earlier,
        costs=report.costs,
        whole=whole,
    )
