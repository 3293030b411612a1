"""The learning rates of a sweep's cells: of the config, carried from another width, or found once by ramps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import load_run_config
from penstock.run.records.record import read_record
from penstock.run.records.sweep import CellRates, SweepFigures
from penstock.sweep.analysis import analyse
from penstock.sweep.controller import Controller
from penstock.sweep.documents import Documents, read_documents
from penstock.sweep.figures import figures_of
from penstock.sweep.grid import load_sweep
from penstock.sweep.inline import Inline
from penstock.sweep.sections import rates_table
from penstock.sweep.shape import shapes_of

SWEEP = """\
name: rates
config: CONFIG
set: {train.tokens: 768, train.evaluate_every: null, train.observers: [], train.trackers: [], OPTIMIZER}
axes:
  width:
    narrow: {model.hidden_size: 16}
    wide: {model.hidden_size: 64}
seeds: [0]
phases: {short: {tokens: 512}, finalists: 1}
rungs: [256]
launcher: null
rate: {use: width, also_common: true}
"""
OPTIMIZER = "train.optimizer: {use: muon, lr: 0.02, adamw_lr: 0.01}"


@pytest.fixture
def sweep_file(workplace: Path, tmp_path: Path) -> Path:
    path = tmp_path / "rates.yaml"
    config = str(workplace / "configs" / "quickstart.yaml")
    path.write_text(SWEEP.replace("CONFIG", config).replace("OPTIMIZER", OPTIMIZER))
    return path


def sweep(path: Path, *arguments: str) -> dict[str, Any]:
    return run(["sweep", str(path), "--runs", str(path.parent / "runs"), *arguments])


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def walk(path: Path) -> tuple[SweepFigures, Documents]:
    """A whole walk in this process, which measures no trained model alone."""
    registry = Registry.discover()
    loaded = load_sweep(path, registry)
    controller = Controller(loaded, path.parent / "runs", registry, Inline())
    shapes = shapes_of(loaded, controller.files)
    controller.run()
    return figures_of(controller, shapes), read_documents(controller)


def test_a_wide_cell_has_the_rate_that_suits_it_and_is_ranked_at_the_common_rate_too(sweep_file):
    figures, documents = walk(sweep_file)
    narrow, wide = figures.cells
    assert (narrow.lr, wide.lr) == (0.02, 0.01)  # four times as wide, with match_rms
    assert (narrow.common_lr, wide.common_lr) == (0.02, 0.02)
    trained = {
        load_run_config(path, (), Registry.discover())[0].train.optimizer.settings.lr
        for path in (sweep_file.parent / "runs" / "rates").glob("2*/config.resolved.yaml")
        if "hidden_size: 64" in path.read_text()
    }
    assert trained == {0.01, 0.02}
    ends = {(each.phase, each.cell): each.bits_per_byte for each in figures.rungs if each.tokens == 512}
    assert ends["short", "narrow"] == ends["common", "narrow"]  # one run, because it is the baseline's width
    assert ends["short", "wide"] != ends["common", "wide"]
    assert next(each.cells for each in figures.phases if each.name == "common") == ["wide"]
    assert figures.spent is not None
    assert figures.spent.tokens == 2 * 512 + 768 + 512
    ranking = analyse(figures, documents).at_rates
    assert ranking is not None
    own = {row.cell: (row.own_rate, row.own, row.common_rate, row.common) for row in ranking.rows}
    assert own == {
        cell.cell: (cell.lr, ends["short", cell.cell], cell.common_lr, ends["common", cell.cell])
        for cell in figures.cells
    }
    assert any(row[:2] == ("wide", "0.01") for row in rates_table(ranking).rows)


def test_found_rates_are_found_once_and_train_the_cells(sweep_file):
    change(sweep_file, "{use: width, also_common: true}", "{use: lr-find, seeds: 1, steps: 30}")
    change(sweep_file, OPTIMIZER, "train.optimizer: {use: adamw, lr: 0.001}")
    priced = sweep(sweep_file, "--dry-run")
    ramps = [cell for cell in priced["cells"] if cell["phase"] == "rates"]
    assert [(cell["runs"], cell["finished"], cell["tokens"]) for cell in ramps] == [(1, 0, 30 * 128)] * 2
    figures, _ = walk(sweep_file)
    files = sorted((sweep_file.parent / "runs" / "rates").rglob("rates.json"))
    written = [file.read_bytes() for file in files]
    used = 0
    for cell in figures.cells:
        (file,) = (each for each in files if each.parts[-3] == cell.key)
        found = read_record(CellRates, file)
        assert found is not None
        used += found.found.tokens
        (rate,) = (each.suggested for each in found.found.rates)
        assert cell.lr == pytest.approx(rate, rel=0.01)
        assert json.dumps(cell.lr) in cell.overrides[-1]
    assert figures.spent is not None
    assert figures.spent.tokens == used + 2 * 512 + 768
    assert walk(sweep_file)[0] == figures
    assert [file.read_bytes() for file in files] == written


@pytest.mark.parametrize(
    ("old", "new", "code", "named"),
    [
        ("also_common: true", "width: 0", "bad-value", "greater than or equal to 1"),
        ("use: width, also_common: true", "use: fixed, width: 64", "bad-value", "nothing reads it"),
        ("use: width", "use: fixed", "bad-value", "rates that are not `fixed`"),
        ("phases: {short: {tokens: 512}, finalists: 1}", "", "bad-value", "needs phases"),
        ("use: width", "use: widht", "bad-value", "'fixed', 'width' or 'lr-find'"),
    ],
)
def test_what_is_wrong_with_rates_is_said_before_any_work(sweep_file, old, new, code, named):
    change(sweep_file, old, new)
    with pytest.raises(ProblemError) as caught:
        sweep(sweep_file)
    assert code in {problem.code for problem in caught.value.problems}
    assert named in str(caught.value)
    assert not (sweep_file.parent / "runs").exists()


@pytest.mark.parametrize("use", ["width", "lr-find"])
def test_an_optimizer_without_such_rates_is_named_with_its_cell(sweep_file, tmp_path, use):
    plugin = tmp_path / "steady.py"
    plugin.write_text(
        "import torch\n"
        "from penstock.hooks import Component, hookimpl\n"
        "class Steady(torch.optim.SGD):\n"
        "    def __init__(self, *, parameters):\n"
        "        super().__init__([each.parameter for each in parameters], lr=0.1)\n"
        "@hookimpl\n"
        "def optimizers():\n"
        "    return [Component(kind='optimizer', name='steady', target='steady:Steady', summary='A fixed rate')]\n"
    )
    change(sweep_file, OPTIMIZER, "train.optimizer: {use: steady}")
    change(sweep_file, "use: width", f"use: {use}")
    with pytest.raises(ProblemError, match="cell 'wide'") as caught:
        run(["--plugin", str(plugin), "sweep", str(sweep_file), "--runs", str(tmp_path / "runs")])
    assert {problem.code for problem in caught.value.problems} == {"unsupported"}
