"""A stop rule as an ordinary pruner of Optuna, for studies with one direction."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from penstock.hooks.contracts import StopRule
from penstock_optuna.standings import by_rung, reports_of, required_rungs, standings_at

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""States of the trials that a trial is compared with: a failed one may have reported anything."""


class RulePruner(BasePruner):
    """Prunes a trial that `rule` stops among all trials that have reported at its rung.

    Optuna asks whenever a trial reports, so a decision depends on which others were there before, unlike in
    `penstock sweep`, where a rung waits for all. It decides at the first report at or beyond each of `rungs`; without
    rungs at every report, among the trials that have reported at its step. `whole` is the step of a whole trial, which
    rules need that allow for what is left. A value that is not finite prunes its trial. Raises `ProblemError` for rungs
    that do not rise.
    """

    def __init__(self, rule: StopRule, *, rungs: Sequence[int] | None = None, whole: int = 0) -> None:
        self.rule, self.rungs, self.whole = rule, required_rungs(rungs), whole
        self.reasons: dict[int, str] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None:
            return False
        value = trial.intermediate_values[step]
        reason = "" if math.isfinite(value) else f"the value became {value}"
        if not reason:
            sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
            reason = reason_to_stop(self.rule, study, trial, step, self.rungs, self.whole, sign)
        if reason:
            self.reasons[trial.number] = reason
        return bool(reason)


def reason_to_stop(
    rule: StopRule, study: Study, trial: FrozenTrial, step: int, rungs: Sequence[int] | None, whole: int, sign: float
) -> str:
    """Why the rule stops a trial at a step; empty if it goes on, or if the step is not its first at a rung. Trials with
    other costs or documents are left out."""
    name = f"trial {trial.number}"
    others = [each for each in study.get_trials(deepcopy=False, states=COUNTED) if each.number != trial.number]
    mine = reports_of(trial, sign)
    rung = next((rung for rung, at in by_rung(mine, rungs).items() if at == step), None)
    if rung is None:
        return ""
    known = {f"trial {each.number}": reports_of(each, sign) for each in others}
    at_rung = {n: (reports, by_rung(reports, rungs).get(rung)) for n, reports in known.items()}
    alike = {n: own for n, (own, at) in at_rung.items() if at is not None and not own[at].unlike(mine[step])}
    standings = standings_at({**alike, name: mine}, rung, rungs, whole)
    own = next(standing for standing in standings if standing.cell == name)
    return rule.stopped(len(own.history), standings).get(name, "")
