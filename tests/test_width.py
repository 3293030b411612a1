"""Rates that follow the width, from config to config."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.hooks import Registry
from penstock.hooks.discovery import Selection
from penstock.hooks.problems import ProblemError
from penstock.run.config import load_run_config
from penstock.run.records.rates import FoundRate, FoundRates
from penstock.train.width import override_at_width, override_of_found

MUON = "train.optimizer={use: muon, lr: 0.02, adamw_lr: 0.008, momentum: 0.9}"
WIDE = "model.hidden_size=64"


@pytest.fixture(scope="module")
def load(tiny):
    return lambda *overrides: load_run_config(tiny, overrides, Registry.discover())[0]


def test_the_override_gives_a_wider_config_the_rates_that_suit_its_width(load):
    wide = load(WIDE, override_at_width(load(WIDE, MUON), 16))  # four times the width
    settings = wide.train.optimizer.settings
    assert (settings.lr, settings.adamw_lr, settings.momentum) == (0.01, 0.008, 0.9)
    assert settings.role_lr == {"router": 0.002, "head": 0.002}


def test_a_config_of_the_same_width_keeps_its_rates(load):
    settings = load(override_at_width(load(MUON, "train.optimizer.nesterov=false"), 16)).train.optimizer.settings
    assert (settings.lr, settings.adamw_lr, settings.nesterov) == (0.02, 0.008, False)


def test_a_config_that_leaves_the_optimizer_out_can_be_overridden(load):
    assert load(WIDE, override_at_width(load(WIDE), 16)).train.optimizer.settings.lr == pytest.approx(0.01)


def test_an_optimizer_without_a_rule_for_widths_is_refused(tiny):
    registry = Registry.discover(Selection(files=(str(Path(__file__).parent / "compat" / "v1" / "sign_descent.py"),)))
    config = load_run_config(tiny, ["train.optimizer={use: sign-descent}"], registry)[0]
    with pytest.raises(ProblemError, match="'sign-descent' does not say how its rates follow the width"):
        override_at_width(config, 16)


def found(*rates: tuple[str, float, float | None]) -> FoundRates:
    """Of (setting, rate now, suggested rate)."""
    return FoundRates("tiny", 1, 1, [FoundRate("rule", *each, None, None) for each in rates])


def test_found_rates_have_three_digits_and_roles_keep_their_ratio_to_their_rule(load):
    config = load(MUON, "train.optimizer.role_lr={router: 0.004, matrix: 0.01}")
    override = override_of_found(config, found(("lr", 0.02, 0.0123456), ("adamw_lr", 0.008, 0.016)))
    assert override is not None
    settings = load(override).train.optimizer.settings
    assert (settings.lr, settings.adamw_lr, settings.momentum) == (0.0123, 0.016, 0.9)
    assert settings.role_lr == {"router": 0.008, "matrix": pytest.approx(0.00615)}


def test_a_rule_whose_ramp_suggests_nothing_keeps_its_rate(load):
    override = override_of_found(load(MUON), found(("lr", 0.02, None), ("adamw_lr", 0.008, 0.001)))
    assert override is not None
    settings = load(override).train.optimizer.settings
    assert (settings.lr, settings.adamw_lr) == (0.02, 0.001)
    assert override_of_found(load(MUON), found(("lr", 0.02, None))) is None


def test_it_needs_no_torch():
    code = "import sys, penstock.train.width; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
