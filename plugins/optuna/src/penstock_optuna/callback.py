"""A stop rule for studies with several directions, which Optuna's pruners do not serve.

Optuna's `Trial.report` and `Trial.should_prune` refuse such studies. The callback keeps reports in the trial's user
attributes, asks the rule, and raises `TrialPruned` itself, which Optuna counts as a pruned trial like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from penstock.hooks.contracts import StopRule
from penstock.hooks.problems import Problem, ProblemError
from penstock_optuna.pruner import COUNTED, reason_to_stop
from penstock_optuna.standings import Report, attribute, reports_of, required_rungs


class StopCallback:
    """Called in the objective with a result at a step: keeps it, and raises `TrialPruned` if `rule` stops the trial
    among all that have reported at the step.

    `value` is minimised, and so are `costs`, the other objectives as far as they are known before the end, such as
    parameters: a trial is compared with those that cost no more, so the Pareto front stays. See `RulePruner` for
    `rungs` and `whole`. It also serves studies with one direction, where it adds the documents.

    A report that no rule can compare ends its trial and not the study: a figure that is no finite number, and other
    documents or another number of costs than those of the first trial at the step. Documents with unlike numbers of
    bits and bytes, or without bytes, are a mistake of the caller and raise `ProblemError`.
    """

    def __init__(self, rule: StopRule, *, rungs: Sequence[int] | None = None, whole: int = 0) -> None:
        self.rule, self.rungs, self.whole = rule, required_rungs(rungs), whole

    def __call__(
        self,
        trial: Trial,
        step: int,
        value: float,
        *,
        costs: Sequence[float] = (),
        document_bits: Sequence[float] = (),
        document_bytes: Sequence[int] = (),
    ) -> None:
        report = Report(value, tuple(costs), tuple(map(float, document_bits)), tuple(map(int, document_bytes)))
        _require_documents(report)
        if report.bad_figure:
            self._prune(trial, report.bad_figure)
        if (first := _first_at(trial, step)) is not None and (why := report.unlike(first[1])):
            self._prune(trial, f"its report at step {step} has {why} in {first[0]}, so they do not compare")
        trial.set_user_attr(attribute(step), report.to_json())
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        if reason := reason_to_stop(self.rule, trial.study, frozen, step, self.rungs, self.whole, 1.0):
            self._prune(trial, f"after step {step}: {reason}")

    def _prune(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        raise TrialPruned(reason)


def _require_documents(report: Report) -> None:
    bits, sizes = len(report.document_bits), len(report.document_bytes)
    if bits != sizes or any(size <= 0 for size in report.document_bytes):
        what = f"{bits} bits and {sizes} bytes of documents" if bits != sizes else "a document without bytes"
        fix = "give document_bits and document_bytes for the same documents, each of a byte or more"
        raise ProblemError(Problem("bad-value", what, "StopCallback", fix))


def _first_at(trial: Trial, step: int) -> tuple[str, Report] | None:
    """The earliest other trial that has reported at the step, and its report."""
    for other in trial.study.get_trials(deepcopy=False, states=COUNTED):
        if other.number != trial.number and (report := reports_of(other, 1.0).get(step)) is not None:
            return f"trial {other.number}", report
    return None
