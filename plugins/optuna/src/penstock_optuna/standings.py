"""What trials of a study have reported, as what a stop rule reads.

A report of a trial at a step is kept in its user attributes: its value, its costs and the bits of each held-out
document. A plain report of Optuna is a value without documents, on which a rule that pairs documents can only bound the
share that goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from penstock.hooks.contracts import Standing

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


def standings_at(
    trials: Mapping[str, Mapping[int, Report]], step: int, rungs: Sequence[int] | None, whole: int
) -> list[Standing]:
    """The trials that have reported at a step. Their history are the earlier reports, those at rungs if rungs are
    given."""
    standings: list[Standing] = []
    for name, reports in trials.items():
        earlier: tuple[Standing, ...] = ()
        for at, report in reports.items():
            if at <= step and (rungs is None or at in rungs):
                earlier = (*earlier, _standing(name, at, report, earlier, whole))
        if step in reports and earlier:
            standings.append(earlier[-1])
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
