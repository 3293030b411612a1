"""`simulate` and `report` run where torch cannot be imported; `train` runs without torch's compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from penstock.traces.trace import RoutingTrace

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it now raises ModuleNotFoundError
from penstock.cli.main import run
run(sys.argv[1:])
"""


TRAINS = """
import sys
from penstock.cli.main import run
for optimizer in ("muon", "adamw"):
    run(["train", *sys.argv[1:], f"train.optimizer={{use: {optimizer}}}"])
for config in ("gpt", "ternary"):
    run(["train", f"configs/{config}.yaml", "--dry-run"])
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def penstock(*arguments: str | Path) -> str:
    """What the command prints in a process of its own."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trace_is_simulated_without_torch(tmp_path: Path) -> None:
    counts_SLE = np.random.default_rng(0).integers(50, 150, (3, 2, 8))
    RoutingTrace(counts_SLE, {"layers": [1, 2], "k": 2, "hidden_size": 64}).save(tmp_path / "trace.npz")
    page = tmp_path / "page.html"
    result = json.loads(penstock("simulate", tmp_path / "trace.npz", "--gpus", "8", "--report", page, "--json"))
    assert [row["gpus"] for row in result["rows"]] == [8]
    assert "Exchange between experts" in page.read_text()


def test_a_trained_run_is_simulated_and_reported_without_torch(trained: Path) -> None:
    simulated = json.loads(penstock("simulate", trained, "--gpus", "4", "--json"))
    assert json.loads((trained / "simulation.json").read_text()) == simulated
    page = trained / "without-torch.html"
    penstock("report", trained, "--out", page)
    text = page.read_text()
    assert all(title in text for title in ("Parameters by role", "Exchange between experts", "Size of the weights"))
    assert 'class="problems"' not in text


def test_training_does_not_import_the_compiler_that_it_does_not_use(tiny: Path, tmp_path: Path) -> None:
    """The import takes longer than that of torch."""
    command = [sys.executable, "-c", TRAINS, str(tiny), "--runs", str(tmp_path)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
