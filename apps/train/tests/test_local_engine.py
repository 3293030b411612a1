"""The local engine steps as a plain loop of torch would."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.conformance.parts import VOCABULARY, TinyModel
from penstock.hooks.contracts import Batch, Inputs, Schedule
from penstock.train.engines.local import LocalEngine
from penstock.train.objectives.next_token import NextToken
from penstock.train.step_module import StepModule


def sgd(module: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(module.parameters()), "lr": 0.5, "initial_lr": 0.5}], momentum=0.9)


def unchanging(progress: float) -> float:
    return 1.0


def make(schedule: Schedule = unchanging) -> LocalEngine:
    engine = LocalEngine(device=torch.device("cpu"))
    engine.prepare(StepModule(TinyModel(), NextToken()), sgd, schedule)
    return engine


def batch(seed: int = 0) -> Batch:
    window_BS = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))
    return Batch(Inputs(window_BS[:, :-1]), window_BS[:, 1:], 16)


def gradients(engine: LocalEngine) -> list[Tensor]:
    return [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]


def take_step(engine: LocalEngine, seed: int = 0) -> None:
    engine.backward(engine.forward(batch(seed)).loss / 16, last=True)
    engine.step(0.0)


def test_the_schedule_scales_the_initial_rate():
    engine = make(schedule=lambda progress: 1 - progress)
    assert engine.step(0.75)["learning_rate"] == pytest.approx(0.125)
    assert engine.step(0.5)["learning_rate"] == pytest.approx(0.25)


def test_clipping_bounds_the_gradient_and_reports_the_norm_before_it():
    engine = make()
    engine.backward(engine.forward(batch()).loss, last=True)
    norm = torch.cat([gradient.flatten() for gradient in gradients(engine)]).norm().item()
    assert engine.clip(None) == pytest.approx(norm)
    assert engine.clip(0.1) == pytest.approx(norm)
    assert engine.clip(0.1) == pytest.approx(0.1, rel=1e-3)


def test_gradients_of_micro_batches_add_up_and_are_gone_after_a_step():
    engine = make()
    engine.backward(engine.forward(batch(0)).loss, last=False)
    first = copy.deepcopy(gradients(engine))
    engine.backward(engine.forward(batch(1)).loss, last=True)
    second = [both - one for both, one in zip(gradients(engine), first, strict=True)]
    engine.step(0.0)
    assert gradients(engine) == []
    engine = make()
    engine.backward(engine.forward(batch(1)).loss, last=True)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(gradients(engine), second, strict=True))


def test_an_evaluation_leaves_no_gradient_and_the_mode():
    engine = make()
    loss = engine.evaluate(batch()).loss
    assert not loss.requires_grad
    assert engine.module.training
    assert loss.item() == engine.forward(batch()).loss.item()


def test_a_setting_that_the_config_changed_is_taken_from_the_config_and_no_other(tmp_path: Path):
    engine, other = make(), make()
    engine.optimizer.param_groups[0]["momentum"] = 0.5  # learnt on the way, as some optimizers do
    engine.save(tmp_path)
    other.settings[0]["initial_lr"] = 0.25
    other.load(tmp_path)
    group = other.optimizer.param_groups[0]
    assert (group["initial_lr"], group["momentum"]) == (0.25, 0.5)


@pytest.mark.parametrize("before_there_were_engines", [False, True])
def test_what_is_saved_continues_bit_equal(tmp_path: Path, before_there_were_engines: bool):
    engine, other = make(), make()
    for seed in range(3):
        take_step(engine, seed)
    if before_there_were_engines:
        torch.save({"step": 3, "engine": engine._state()}, tmp_path / "trainer.pt")
    else:
        assert engine.save(tmp_path).keys() == {"engine.pt"}
    other.module.load_state_dict(engine.module.state_dict())
    other.load(tmp_path)
    for each in (engine, other):
        take_step(each, 3)
    assert all(torch.equal(a, b) for a, b in zip(engine.module.parameters(), other.module.parameters(), strict=True))
