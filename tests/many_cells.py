"""A finished sweep of 144 cells that trained nothing, and what showing it again takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from penstock.cli.main import run
from penstock.hooks.discovery import Selection
from penstock.hooks.registry import Registry
from penstock.run.records.sweep import CellShape
from penstock.sweep.data import with_data
from penstock.sweep.files import SweepFiles
from penstock.sweep.grid import load_sweep

PLUGIN = str(Path(__file__).with_name("instant.py"))
SWEEP = """\
name: many
config: CONFIG
set: {train.tokens: 1024, train.evaluate_every: null}
axes:
  depth: {one: {model.num_hidden_layers: 1}, two: {model.num_hidden_layers: 2}, three: {model.num_hidden_layers: 3}}
  shared: {32: {model.intermediate_size: 32}, 48: {model.intermediate_size: 48}, 64: {model.intermediate_size: 64}}
  routed: {8: {model.moe_intermediate_size: 8}, 16: {model.moe_intermediate_size: 16},
           24: {model.moe_intermediate_size: 24}, 32: {model.moe_intermediate_size: 32}}
  batch: {2: {train.batch_size: 2}, 4: {train.batch_size: 4}, 6: {train.batch_size: 6}, 8: {train.batch_size: 8}}
seeds: [0, 1]
phases: {short: {tokens: 512}, finalists: 3}
launcher: {use: instant}
"""
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\nfrom penstock.cli.main import run\nrun(sys.argv[1:])"


def finished_sweep(config: Path, folder: Path) -> list[str]:
    """Makes the sweep in `folder`; returns the arguments of the command that finished it."""
    path = folder / "many.yaml"
    path.write_text(SWEEP.replace("CONFIG", str(config)))
    loaded = load_sweep(path, Registry.discover(Selection(files=(PLUGIN,))))
    cells = with_data(loaded, folder / "runs", prepare=True).cells
    assert len(cells) == 144
    for number, cell in enumerate(cells):  # counting the models would take a minute
        shape = CellShape(1000 + number, 1000, 0.5, {"fp32": 4000.0}, flops_per_token=6000)
        SweepFiles(folder / "runs" / "many").write_shape(cell.key, shape)
    arguments = ["--plugin", PLUGIN, "sweep", str(path), "--runs", str(folder / "runs")]
    run(arguments)
    return arguments


def processor_seconds(*arguments: str) -> tuple[float, str]:
    """Of a process that cannot import torch, and what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime, printed
