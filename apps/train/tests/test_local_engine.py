"""The local engine steps as a plain loop of torch would."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from penstock.train.engines.local import LocalEngine


def make(schedule=lambda progress: 1.0, clip=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return LocalEngine(model, optimizer, schedule, clip)


def loss_of(model):
    return model(torch.ones(4, 3)).square().sum()


def test_the_schedule_scales_the_initial_rate():
    engine = make(schedule=lambda progress: 1 - progress)
    engine.backward(loss_of(engine.model))
    assert engine.step(0.75)["learning_rate"] == pytest.approx(0.125)
    engine.backward(loss_of(engine.model))
    assert engine.step(0.5)["learning_rate"] == pytest.approx(0.25)


def test_clipping_bounds_the_step_and_reports_the_norm_before_it():
    engine = make(clip=0.1)
    before = copy.deepcopy(engine.model.state_dict())
    engine.backward(loss_of(engine.model))
    gradients = [parameter.grad for parameter in engine.model.parameters() if parameter.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    assert engine.clip() == pytest.approx(norm)
    engine.step(0.0)
    moved = torch.cat([(before[name] - tensor).flatten() for name, tensor in engine.model.state_dict().items()])
    assert moved.norm().item() == pytest.approx(0.5 * 0.1, rel=1e-3)


def test_gradients_are_gone_after_a_step():
    engine = make()
    engine.backward(loss_of(engine.model))
    engine.step(0.0)
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_a_setting_that_the_config_changed_is_taken_from_the_config_and_no_other():
    engine, other = make(), make()
    engine.optimizer.param_groups[0]["momentum"] = 0.5  # learnt on the way, as some optimizers do
    other.settings[0]["initial_lr"] = 0.25
    other.load_state(copy.deepcopy(engine.state()))
    group = other.optimizer.param_groups[0]
    assert (group["initial_lr"], group["momentum"]) == (0.25, 0.5)


def test_state_round_trip_continues_bit_equal():
    engine, other = make(), make()
    for _ in range(3):
        engine.backward(loss_of(engine.model))
        engine.step(0.0)
    other.model.load_state_dict(engine.model.state_dict())
    other.load_state(copy.deepcopy(engine.state()))
    for each in (engine, other):
        each.backward(loss_of(each.model))
        each.step(0.0)
    assert all(torch.equal(a, b) for a, b in zip(engine.model.parameters(), other.model.parameters(), strict=True))
