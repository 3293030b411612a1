"""Stop rules in real studies of Optuna."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from penstock_optuna.callback import StopCallback
from penstock_optuna.pruner import RulePruner, reason_to_stop
from penstock_optuna.standings import Report

from penstock.hooks.problems import ProblemError
from penstock.sweep.rules.halving import Halving
from penstock.sweep.rules.paired import Paired

optuna.logging.set_verbosity(optuna.logging.ERROR)
BYTE_P = np.random.default_rng(0).integers(500, 3000, 40)


def ends(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def bits_of(rate: float, seed: int) -> list[float]:
    return list((rate + 0.02 * np.random.default_rng(seed).standard_normal(len(BYTE_P))) * BYTE_P)


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_a_rule_prunes_like_any_pruner(direction, sign):
    """The third of three trials is not among the better half of those that have reported, rounded up."""
    study = optuna.create_study(direction=direction, pruner=RulePruner(Halving(), rungs=[10], whole=20))

    def objective(trial: optuna.Trial) -> float:
        for step in (5, 10, 20):
            trial.report(sign * (2.0 + trial.number), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * (2.0 + trial.number)

    study.optimize(objective, n_trials=3)
    assert ends(study) == ["COMPLETE", "PRUNED", "PRUNED"]
    assert study.trials[2].last_step == 10
    assert study.best_trial.number == 0


@pytest.mark.parametrize("steps", [(10, 20), (4, 13, 17, 20), (7, 12, 19)])
def test_a_rung_is_decided_at_the_first_report_at_or_beyond_it(steps):
    study = optuna.create_study(pruner=RulePruner(Halving(), rungs=[10], whole=20))

    def objective(trial: optuna.Trial) -> float:
        for step in steps:
            trial.report(2.0 + trial.number, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 2.0 + trial.number

    study.optimize(objective, n_trials=3)
    assert ends(study) == ["COMPLETE", "PRUNED", "PRUNED"]
    assert study.trials[2].last_step == next(step for step in steps if step >= 10)


@pytest.mark.parametrize("rungs", [[], [0, 10], [-5], [20, 10], [10, 10]])
def test_rungs_that_do_not_rise_from_above_zero_are_refused(rungs):
    for maker in (RulePruner, StopCallback):
        with pytest.raises(ProblemError, match="rungs are"):
            maker(Halving(), rungs=rungs)


def test_a_value_that_is_not_finite_prunes():
    study = optuna.create_study(pruner=RulePruner(Halving()))
    trial = study.ask()
    trial.report(math.nan, 1)
    assert trial.should_prune()


def test_what_has_no_step_goes_on():
    assert not optuna.create_study(pruner=RulePruner(Halving())).ask().should_prune()


def test_with_several_directions_the_callback_prunes_and_the_front_stays():
    """The third trial is worse and larger than the first; the second is small."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    callback = StopCallback(Paired(seed_noise=0.01, catch_up=0.0, keep=1.0), rungs=[10], whole=10)
    rates, parameters = [2.0, 2.4, 2.4], [200.0, 100.0, 300.0]

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        # Optuna refuses both for several directions: a version that does not needs no callback.
        with pytest.raises(NotImplementedError):
            trial.report(1.0, 1)
        with pytest.raises(NotImplementedError):
            trial.should_prune()
        rate, cost = rates[trial.number], parameters[trial.number]
        for step in (5, 10):
            bits = bits_of(rate, trial.number)
            callback(trial, step, rate, costs=[cost], document_bits=bits, document_bytes=list(BYTE_P))
        return rate, cost

    study.optimize(objective, n_trials=3)
    assert ends(study) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert study.trials[2].user_attrs["reason"].endswith("bits per byte behind trial 0")
    assert sorted(trial.number for trial in study.best_trials) == [0, 1]


def test_the_callback_prunes_what_is_not_finite():
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(optuna.TrialPruned, match="became inf"):
        StopCallback(Halving())(study.ask(), 1, math.inf)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"document_bits": [1.0] * 12, "document_bytes": [100] * 12}, "12 documents, and other 40 in trial 0"),
        ({"costs": [1.0, 2.0]}, "2 costs, and 1 in trial 0"),
        ({"costs": []}, "0 costs, and 1 in trial 0"),
        ({"costs": [math.nan]}, "the cost became nan"),
        ({"document_bits": [math.inf] * len(BYTE_P)}, "the bits of a document became inf"),
    ],
)
@pytest.mark.parametrize("rule", [Paired(keep=1.0), Halving()])
def test_an_unusual_report_ends_its_trial_and_not_the_study(told, reason, rule):
    study = optuna.create_study(directions=["minimize", "minimize"])
    callback = StopCallback(rule)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        usual = {"costs": [1.0], "document_bits": bits_of(2.0, 0), "document_bytes": BYTE_P}
        callback(trial, 1, 2.0, **(usual | told if trial.number == 1 else usual))
        return 2.0, 1.0

    study.optimize(objective, n_trials=4)
    assert study.trials[1].state == TrialState.PRUNED
    assert reason in study.trials[1].user_attrs["reason"]
    assert ends(study)[0] == "COMPLETE"
    assert not any(reason in trial.user_attrs.get("reason", "") for trial in study.trials[2:])


@pytest.mark.parametrize(
    ("bits", "sizes", "named"),
    [([1.0], [], "1 bits and 0 bytes"), ([], [5], "0 bits and 1 bytes"), ([1.0], [0], "without bytes")],
)
def test_documents_that_do_not_fit_are_explained(bits, sizes, named):
    study = optuna.create_study()
    with pytest.raises(ProblemError, match=named):
        StopCallback(Paired())(study.ask(), 1, 2.0, document_bits=bits, document_bytes=sizes)


def test_reports_of_an_earlier_version_that_do_not_compare_are_left_out():
    study = optuna.create_study(directions=["minimize", "minimize"])
    earlier = study.ask()
    for costs in ([1.0, 2.0], [math.nan]):
        earlier.set_user_attr("penstock:1", Report(1.0, tuple(costs)).to_json())
        own = study.ask()
        own.set_user_attr("penstock:1", Report(2.0, (1.0,)).to_json())
        frozen = study.get_trials(deepcopy=False)[own.number]
        assert reason_to_stop(Paired(keep=1.0), study, frozen, 1, None, 0, 1.0) == ""


def test_documents_tell_apart_what_a_value_alone_does_not():
    """Without documents the paired rule only bounds the share that goes on."""
    rule = Paired(seed_noise=0.0, catch_up=0.0, keep=1.0)
    for documents, expected in ((False, TrialState.COMPLETE), (True, TrialState.PRUNED)):
        study = optuna.create_study()
        callback = StopCallback(rule)

        def objective(trial: optuna.Trial, documents=documents, callback=callback) -> float:
            rate = 2.0 + 0.05 * trial.number
            told = {"document_bits": bits_of(rate, trial.number), "document_bytes": BYTE_P} if documents else {}
            callback(trial, 1, rate, **told)
            return rate

        study.optimize(objective, n_trials=2)
        assert study.trials[1].state == expected
