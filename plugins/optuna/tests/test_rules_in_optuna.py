"""Stop rules in real studies of Optuna."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from penstock_optuna.callback import StopCallback
from penstock_optuna.pruner import RulePruner

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
