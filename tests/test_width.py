"""Rates that follow the width, from config to config."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError
from penstock.run.config import load_run_config
from penstock.train.width import override_at_width

MUON = "train.optimizer={use: muon, lr: 0.02, adamw_lr: 0.008, momentum: 0.9}"
WIDE = "model.hidden_size=64"


@pytest.fixture(scope="module")
def load(tiny):
    return lambda *overrides: load_run_config(tiny, overrides, Registry.discover())[0]


def test_the_override_gives_a_wider_config_the_rates_of_the_base(load):
    base = load(MUON)
    wide = load(WIDE, override_at_width(base, load(WIDE, MUON)))  # four times the width
    settings = wide.train.optimizer.settings
    assert (settings.lr, settings.adamw_lr, settings.momentum) == (0.01, 0.008, 0.9)
    assert settings.role_lr == {"router": 0.002, "head": 0.002}
    assert override_at_width(base, wide) == override_at_width(base, load(WIDE, MUON))


def test_a_config_of_the_same_width_gets_the_rates_of_the_base(load):
    cell = load(override_at_width(load(MUON), load("train.optimizer={use: muon, lr: 1, nesterov: false}")))
    assert (cell.train.optimizer.settings.lr, cell.train.optimizer.settings.nesterov) == (0.02, False)


def test_a_config_that_leaves_the_optimizer_out_can_be_overridden(load):
    assert load(WIDE, override_at_width(load(), load(WIDE))).train.optimizer.settings.lr == pytest.approx(0.01)


def test_rates_of_another_optimizer_are_refused(load):
    with pytest.raises(ProblemError, match="the rates of 'adamw' say nothing about 'muon'"):
        override_at_width(load("train.optimizer={use: adamw}"), load(MUON))


def test_it_needs_no_torch():
    code = "import sys, penstock.train.width; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
