"""A run that pauses at a step goes on to the bits of a run that never paused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from penstock.hooks.discovery import Selection
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
from penstock.run.directory import RunDirectory
from penstock.train.checkpoint import newest_checkpoint
from penstock.train.training import train_alone


def trained(config_file: Path, runs: Path, *pauses: int, changes: tuple[str, ...] = ()) -> RunDirectory:
    registry = Registry.discover(Selection(), print)
    config, document = load_run_config(config_file, changes, registry)
    resume = None
    for until in (*pauses, None):
        result = train_alone(config, document, runs, registry, overrides=changes, resume=resume, until=until)
        resume = result.run_dir
        run = RunDirectory(Path(resume))
        status = run.status()
        assert (status.state, status.step) == (("finished", 12) if until is None else ("paused", until))
    return run


def losses(run: RunDirectory) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.parametrize("changes", [(), ("train.checkpoint_async=true", "train.schedule={use: wsd}")])
def test_a_paused_run_goes_on_to_equal_bits(config_file: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    whole = trained(config_file, tmp_path / "whole", changes=changes)
    paused = trained(config_file, tmp_path / "paused", 1, 5, 7, changes=changes)
    ends = [newest_checkpoint(run.checkpoints, print) for run in (whole, paused)]
    assert all(ends)
    weights, again = (load_file(end.path / "model.safetensors") for end in ends if end)
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert losses(whole) == losses(paused)


def test_a_pause_that_is_behind_trains_nothing_and_keeps_the_checkpoint(config_file: Path, tmp_path: Path) -> None:
    registry = Registry.discover(Selection(), print)
    config, document = load_run_config(config_file, (), registry)
    first = train_alone(config, document, tmp_path, registry, until=4)
    run = RunDirectory(Path(first.run_dir))
    before = {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*.safetensors")}
    train_alone(config, document, tmp_path, registry, resume=first.run_dir, until=3)
    assert (run.status().state, run.status().step) == ("paused", 4)
    assert {path: path.stat().st_mtime_ns for path in run.checkpoints.rglob("*.safetensors")} == before
