"""`train --lr-find` and `--overfit-tokens`: what they find, and that they leave nothing behind."""

from __future__ import annotations

import json
import pickle
import random
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from crash import differences, outcome

from penstock.cli.main import run as run_command
from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError
from penstock.run.config import load_run_config
from penstock.train.overfit import overfit
from penstock.train.rate_finder import HIGHEST, LOWEST, find_rates, rules_of
from penstock.train.training import prepare_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trials")


FEW = ("model.num_hidden_layers=1", "model.balance=[]", "train.micro_batch_size=4")  # for many steps


@pytest.fixture(scope="module")
def load(tiny):
    return lambda *overrides: load_run_config(tiny, overrides, Registry.discover())[0]


@pytest.fixture(scope="module")
def data(load, runs) -> Path:
    return Path(prepare_run(load(), runs)["data"])


def generators() -> list[object]:
    """Where all generators of random numbers are."""
    return [random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()]


def test_a_run_after_a_search_has_the_bits_of_one_without(load, data, tiny, runs):
    def trained(folder: str) -> Path:
        return Path(run_command(["train", str(tiny), "--runs", str(runs / folder), "--json"])["run_dir"])

    alone = trained("alone")
    random.seed(3), np.random.seed(4), torch.manual_seed(5)  # pyright: ignore[reportUnusedExpression]
    states = generators()
    before = sorted(runs.rglob("*"))
    find_rates(load(), data, seeds=1, steps=4)
    overfit(load(*FEW, "train.optimizer={use: muon, lr: 0.1}"), data, 16)
    assert generators() == states
    assert sorted(runs.rglob("*")) == before
    assert differences(outcome(trained("after")), outcome(alone)) == []


def test_each_rule_has_a_ramp_of_each_seed_that_moves_its_own_rate_alone(load, data):
    config = load("train.optimizer={use: muon, lr: 0.02, adamw_lr: 0.005}")
    found = find_rates(config, data, seeds=2, steps=5)
    assert [(each.rule, each.setting, each.now) for each in found.rates] == [
        ("muon", "lr", 0.02),
        ("adamw", "adamw_lr", 0.005),
    ]
    for rate in found.rates:
        assert [curve.seed for curve in rate.curves] == [0, 1]
        assert rate.curves[0].rates == pytest.approx(list(np.geomspace(LOWEST, HIGHEST, 5)))
        assert rate.curves[0].losses != rate.curves[1].losses
        assert rate.low is None  # two seeds have no interval
        ramp, at_rest = rate.curves[0].losses, rate.curves[0].at_rest
        assert ramp[:2] == at_rest[:2]  # a loss is that before the step, and a ramp begins at the lowest rate
        assert len(at_rest) == 5
        assert ramp[2:] != at_rest[2:]
    first, second = (rate.curves[0].losses for rate in found.rates)
    assert first[0] == second[0]
    assert first[1:] != second[1:]
    assert found.steps == sum(len(each.losses) + len(each.at_rest) for rate in found.rates for each in rate.curves)
    assert rules_of(load("train.optimizer={use: adamw}"), data) == ["adamw"]


def test_a_schedule_that_is_longer_than_a_ramp_is_not_asked(load, data):
    config = load("train.schedule={use: wsd, warmup_tokens: 256}")
    assert rules_of(config, data) == rules_of(load(), data)
    assert len(find_rates(config, data, seeds=1, steps=2).rates) == 2


def test_the_command_prints_a_suggestion_with_its_interval_and_draws_the_ramps(tiny, runs, capsys):
    found = run_command(["train", str(tiny), *FEW, "train.optimizer={use: adamw}", "--lr-find", "--runs", str(runs)])
    (rate,) = found["rates"]
    assert LOWEST < rate["low"] <= rate["suggested"] <= rate["high"] < 10 * HIGHEST
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("train with: "))
    (again,) = shlex.split(line.removeprefix("train with: "))
    assert load_run_config(tiny, [again], Registry.discover())[0].train.optimizer.settings.lr == pytest.approx(
        rate["suggested"], rel=0.05
    )
    assert json.loads((runs / "tiny" / "lr-find.json").read_text()) == found
    page = (runs / "tiny" / "lr-find.html").read_text()
    assert page.count("<svg") >= 1


@pytest.mark.parametrize("options", [["--lr-find", "--dry-run"], ["--overfit-tokens", "64", "--resume", "auto"]])
def test_options_that_say_what_to_train_are_refused(tiny, options):
    with pytest.raises(click.UsageError):
        run_command(["train", str(tiny), *options])


def test_a_search_on_ranks_is_refused(tiny, runs):
    with pytest.raises(ProblemError, match="one process"):
        run_command(["train", str(tiny), "train.engine=ddp", "--lr-find", "--runs", str(runs)])


def test_a_model_learns_a_few_tokens_by_heart(tiny, runs, capsys):
    found = run_command(["train", str(tiny), *FEW, "--overfit-tokens", "64", "--runs", str(runs)])
    assert found["tokens"] == found["counted"] == 64
    assert found["first_loss"] == pytest.approx(np.log(300), rel=0.05)
    assert found["loss"] <= 0.1
    assert "learnt by heart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["train.optimizer={use: muon, lr: 0}"], r"no gradient: \d+ parameters that train never moved"),
        (["train.optimizer={use: muon, lr: 0.0002}"], r"learning rate: (perhaps )?too low; at 10 times"),
        (["train.optimizer={use: muon, lr: 5}"], r"learning rate: (perhaps )?too high; at 0\.1 times"),
    ],
)
def test_what_keeps_a_model_from_learning_is_said(tiny, runs, overrides, found):
    with pytest.raises(ProblemError, match=found):
        run_command(["train", str(tiny), *FEW, *overrides, "--overfit-tokens", "64", "--runs", str(runs)])


def test_tokens_that_a_mask_leaves_out_are_counted(load, data, tmp_path):
    rows = [{"tokens": list(range(20, 36)), "mask": [0] * 12 + [1] * 4} for _ in range(8)]
    for name in ("rows", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = f"{{use: masked-next-token, paths: [{tmp_path}/rows.jsonl], heldout: [{tmp_path}/heldout.jsonl]}}"
    result = overfit(load(*FEW, f"train.objective={files}", "train.optimizer={use: muon, lr: 0}"), data, 64)
    assert (result.counted, result.reached) == (16, False)
    assert result.findings[0].startswith(f"masks: 16 of {result.tokens} tokens are counted")


def test_a_model_with_fewer_parameters_than_the_tokens_have_bits_is_named(load, data):
    result = overfit(load(*FEW, "model.hidden_size=8", "train.optimizer={use: adamw, lr: 0.001}"), data, 1600)
    (size,) = result.findings
    assert size.startswith("size: 1600 tokens of a vocabulary of 300 have 13,166 bits")
