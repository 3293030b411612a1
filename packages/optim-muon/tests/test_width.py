"""Rates at another width change what a layer puts out by the same amount: measured on real steps."""

from __future__ import annotations

import pytest
import torch

from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.adamw import adamw
from penstock.optim_muon.config import AdamWConfig, MuonConfig
from penstock.optim_muon.muon import MuonAdamW

BASE, WIDE = 64, 256
RATIO = WIDE / BASE


def change(settings: MuonConfig | AdamWConfig, width: int, role: ParameterRole) -> float:
    """RMS of the change of a layer's output by one step, for inputs of RMS 1 that the gradient is aligned with, as in
    training."""
    torch.manual_seed(0)
    rows = width if role in (ParameterRole.MATRIX, ParameterRole.EXPERT) else 32
    weight = torch.nn.Parameter(torch.zeros(rows, width))
    make = MuonAdamW if isinstance(settings, MuonConfig) else adamw
    optimizer = make({role: {"weight": weight}}, **dict(settings))
    inputs = torch.randn(width)
    inputs /= inputs.square().mean().sqrt()
    weight.grad = torch.outer(torch.randn(rows), inputs)
    optimizer.step()
    return (weight.detach() @ inputs).square().mean().sqrt().item()


SETTINGS = [
    MuonConfig(lr=0.02),
    MuonConfig(lr=0.02, scaling="original"),
    MuonConfig(lr=0.02, muon_roles=(ParameterRole.EXPERT,), role_lr={ParameterRole.MATRIX: 0.01}),
    AdamWConfig(lr=0.003, weight_decay=0),
    AdamWConfig(lr=0.003, weight_decay=0, role_lr={ParameterRole.ROUTER: 1e-4}),
]


@pytest.mark.parametrize("role", [ParameterRole.MATRIX, ParameterRole.EXPERT, ParameterRole.ROUTER, ParameterRole.HEAD])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_step_changes_what_a_wide_layer_puts_out_as_much_as_a_narrow_one(settings, role):
    here, there = change(settings, BASE, role), change(settings.at_width(RATIO), WIDE, role)
    assert there == pytest.approx(here, rel=0.25)
    assert abs(change(settings, WIDE, role) / here - 1) > 0.5 or getattr(settings, "scaling", "") == "original"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_rates_with_one_input_a_token_stay(settings):
    wide = settings.at_width(RATIO)
    roles = wide.role_lr or {}
    for role in (ParameterRole.EMBEDDING, ParameterRole.NORM, ParameterRole.BIAS):
        assert role not in roles
    rate = settings.adamw_lr if isinstance(settings, MuonConfig) and settings.adamw_lr is not None else settings.lr
    assert (wide.adamw_lr if isinstance(wide, MuonConfig) else wide.lr) == rate


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_two_ratios_are_their_product(settings):
    assert settings.at_width(1) is settings
    once, twice = settings.at_width(4), settings.at_width(2).at_width(2)
    assert twice.lr == pytest.approx(once.lr)
    assert twice.role_lr == pytest.approx(once.role_lr)
