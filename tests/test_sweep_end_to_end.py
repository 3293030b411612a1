"""A small sweep with everything, from its file to its page: what its rows say is what anyone finds again."""

from __future__ import annotations

import csv
import html
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import run
from penstock.eval_suite.likelihood import token_nll
from penstock.evaluate.evaluation import heldout_tokens
from penstock.hooks.registry import Registry
from penstock.run.records.record import read_record
from penstock.run.records.sweep import SweepFigures
from penstock.sweep.heldout import pieces_of
from penstock.sweep.samples import curves_of, results_of
from penstock.train.restore import restore_run

SWEEP = """\
name: whole
config: CONFIG
set: {train.tokens: 1024, train.evaluate_every: null, train.observers: [], train.trackers: [{use: jsonl}]}
axes:
  layers:
    one: {model.num_hidden_layers: 1}
    two: {model.num_hidden_layers: 2}
  rate:
    low: {train.optimizer: {use: adamw, lr: 0.0001}}
    high: {train.optimizer: {use: adamw, lr: 0.01}}
seeds: [1, 0]
phases: {short: {tokens: 512}, finalists: 2}
stop: none
launcher: null
objectives: {bits_per_byte: minimize, latency_128: minimize}
tasks: [heldout]
"""
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\nfrom penstock.cli.main import run\nrun(sys.argv[1:])"


@pytest.fixture(scope="module")
def swept(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a finished sweep, beside its runs."""
    path = tmp_path_factory.mktemp("swept") / "whole.yaml"
    path.write_text(SWEEP.replace("CONFIG", str(workplace / "configs" / "quickstart.yaml")))
    sweep(path)
    return path


def sweep(path: Path) -> dict[str, Any]:
    return run(["sweep", str(path), "--runs", str(path.parent / "runs")])


def folder(path: Path) -> Path:
    return path.parent / "runs" / "whole"


def rows(path: Path, table: str) -> list[dict[str, str]]:
    with (folder(path) / "tables" / f"{table}.csv").open() as file:
        return list(csv.DictReader(file))


def test_finalists_are_measured_alone_and_the_tables_have_it(swept):
    cells = rows(swept, "cells")
    finalists = [cell for cell in cells if cell["state"] == "finished"]
    assert len(finalists) == 2
    for cell in finalists:
        assert all(0 < float(cell[name]) < 60 for name in ("latency_128", "latency_512"))
        assert float(cell["tokens_per_second"]) > 0
        assert 50e6 < float(cell["peak_memory"]) < 50e9
        (bits,) = [float(cell[name]) for name in cell if name.startswith("tasks.heldout.bits_per_byte@")]
        seed = next(each for each in rows(swept, "results") if (each["cell"], each["phase"]) == (cell["cell"], "final"))
        assert seed["seed"] == "1"
        assert bits == pytest.approx(float(seed["bits_per_byte"]), rel=0.05)  # of the same text, read in other windows
    assert not any(cell["latency_128"] for cell in cells if cell["state"] != "finished")
    assert len(list(folder(swept).rglob("measured.json"))) == 2
    page = (folder(swept) / "sweep.html").read_text()
    assert "Against latency of 128 tokens" in page


def test_what_was_measured_is_not_measured_again_unless_its_file_is_gone(swept):
    kept, lost = sorted(folder(swept).rglob("measured.json"))
    before = kept.read_bytes()
    decisions = (folder(swept) / "decisions.jsonl").read_bytes()
    sweep(swept)
    assert kept.read_bytes() == before
    lost.unlink()
    (folder(swept) / "finished.json").unlink()
    sweep(swept)
    assert lost.exists()
    assert kept.read_bytes() == before
    assert (folder(swept) / "decisions.jsonl").read_bytes() == decisions


def test_a_finished_sweep_is_walked_through_again_without_torch(swept):
    before = (folder(swept) / "sweep.json").read_bytes()
    (folder(swept) / "finished.json").unlink()
    command = ["sweep", str(swept), "--runs", str(swept.parent / "runs")]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *command], check=True)
    assert (folder(swept) / "sweep.json").read_bytes() == before
    assert (folder(swept) / "finished.json").exists()


def test_each_row_is_reproduced_by_its_command(swept):
    """To equal bits, of a cell that was stopped after the short phase and of both runs of a finalist."""
    results = {(each["cell"], each["phase"], each["seed"]): each for each in rows(swept, "results")}
    cells = {cell["state"]: cell for cell in rows(swept, "cells")}
    assert cells.keys() == {"stopped", "finished"}
    commands = [(cell, line) for cell in cells.values() for line in cell["reproduce"].split(" && ")]
    assert len(commands) == 3
    for cell, line in commands:
        program, *arguments = shlex.split(line)
        assert program == "penstock"
        (seed,) = [each.removeprefix("seed=") for each in arguments if each.startswith("seed=")]
        trained = run([*arguments, "--runs", str(swept.parent / "again"), "--json"])
        restored = restore_run(Path(trained["run_dir"]), Registry.discover())
        pieces = pieces_of(heldout_tokens(restored.dataset), restored.tokenizer, None)
        nll_N = token_nll(restored.model, pieces.token_N, sequence_length=restored.config.data.sequence_length)
        expected = results[cell["cell"], cell["phase"], seed]
        assert float(nll_N.mean()) == float(expected["loss"])
        assert trained["steps"] == int(expected["steps"])


def test_the_page_has_a_curve_of_each_cell_through_its_rungs(swept):
    figures = read_record(SweepFigures, folder(swept) / "sweep.json")
    assert figures is not None
    curves = {(curve.phase, curve.cell): curve for curve in curves_of(figures, results_of(figures), "short")}
    assert len(curves) == 4
    for (_, cell), curve in curves.items():
        assert curve.tokens == (128, 256, 512)
        found = [each for each in rows(swept, "results") if (each["cell"], each["phase"]) == (cell, "short")]
        assert [(int(each["tokens"]), float(each["bits_per_byte"])) for each in found] == list(
            zip(curve.tokens, curve.bits_per_byte, strict=True)
        )
    page = html.unescape((folder(swept) / "sweep.html").read_text())
    assert "Short phase" in page
    for cell in rows(swept, "cells"):
        for line in cell["reproduce"].split(" && "):
            assert line in page
            assert line in (folder(swept) / "summary.md").read_text()
