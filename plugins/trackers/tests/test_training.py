"""Whole commands: a run that is stopped and resumed, and one that fails, with a real library behind the tracker."""

from __future__ import annotations

import email
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from stored_rows import rows_of
from tracked_run import CONFIG

from penstock.cli.main import run as run_command
from penstock.hooks import ProblemError

# Not wandb: its own process writes the file of a run at a time of its own, up to two minutes after `finish` where there
# is no network. test_trackers.py has what is asked of it.
LIBRARIES = [
    pytest.param(each, marks=pytest.mark.skipif(find_spec(each) is None, reason=f"{each} is not installed"))
    for each in ("trackio", "mlflow")
]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_run_that_fails_has_the_rows_that_it_logged(library: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace("LIBRARY", library).replace("CORPUS", str(Path(email.__file__).parent))
    Path("tiny.yaml").write_text(text)
    with pytest.raises(ProblemError, match="became"):
        run_command(["train", "tiny.yaml", f"name=fails-{library}", "train.optimizer={use: adamw, lr: 1e30}"])
    (run,) = Path("runs", f"fails-{library}").absolute().glob("2*")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows
    assert rows_of(library, run).keys() == {row["step"] for row in rows}
    assert (run / f"{library}-rows.jsonl").read_text().endswith('"closed"\n')


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_run_goes_on_where_its_checkpoint_is(library: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace("LIBRARY", library).replace("CORPUS", str(Path(email.__file__).parent))
    Path("tiny.yaml").write_text(text)
    run = Path(run_command(["train", "tiny.yaml", f"name=goes-on-{library}"])["run_dir"]).absolute()
    whole = rows_of(library, run)
    assert whole.keys() == set(range(1, 9))
    newest = run / "checkpoints" / "step-00000008"
    newest.rename(tmp_path / "lost")
    (run / "checkpoints" / "latest").write_text("step-00000006\n")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "interrupted", "step": 6}))
    run_command(["train", "tiny.yaml", f"name=goes-on-{library}", "--resume", str(run)])
    resumed = rows_of(library, run)
    assert resumed.keys() == whole.keys()
    assert [resumed[step]["loss"] for step in sorted(resumed)] == [whole[step]["loss"] for step in sorted(whole)]
