"""A stop rule for studies with several directions, which Optuna's pruners do not serve.

Optuna's `Trial.report` and `Trial.should_prune` refuse such studies. The callback keeps reports in the trial's user
attributes, asks the rule, and raises `TrialPruned` itself, which Optuna counts as a pruned trial like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from penstock.hooks.contracts import StopRule
from penstock_optuna.pruner import reason_to_stop
from penstock_optuna.standings import Report, attribute


class StopCallback:
    """Called in the objective with a result at a step: keeps it, and raises `TrialPruned` if `rule` stops the trial
    among all that have reported at the step.

    `value` is minimised, and so are `costs`, the other objectives as far as they are known before the end, such as
    parameters: a trial is compared with those that cost no more, so the Pareto front stays. See `RulePruner` for
    `rungs` and `whole`. It also serves studies with one direction, where it adds the documents.
    """

    def __init__(self, rule: StopRule, *, rungs: Sequence[int] | None = None, whole: int = 0) -> None:
        self.rule, self.rungs, self.whole = rule, rungs, whole

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
        trial.set_user_attr(attribute(step), report.to_json())
        if not math.isfinite(value):
            self._prune(trial, f"the value became {value}")
        if self.rungs is not None and step not in self.rungs:
            return
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        if reason := reason_to_stop(self.rule, trial.study, frozen, step, self.rungs, self.whole, 1.0):
            self._prune(trial, f"after step {step}: {reason}")

    def _prune(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        raise TrialPruned(reason)
