"""A run that two ranks trained with parameters cut in two is used by one process like any other run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from crash import differences, outcome
from safetensors.torch import load_file

from penstock.cli.main import run as run_command
from penstock.conformance.ranks import told_by_ranks
from penstock.hooks import Registry
from penstock.hooks.registry import Choice
from penstock.train import shards

LIMIT = 200.0  # seconds that ranks have: a hang is a failure
CHOICE: Any = Registry.discover().choose("engine", "fsdp2")


def train(choice: Choice, arguments: Sequence[str], cwd: Path) -> tuple[str, str]:
    """Trains on this rank. Returns the folder of the run and what the command printed."""
    os.chdir(cwd)
    with redirect_stderr(StringIO()) as said:
        result = run_command(["train", *arguments, "--json"])
    return "" if result is None else str(cwd / result["run_dir"]), said.getvalue()


def trained(arguments: Sequence[object], cwd: Path, ranks: int = 2) -> tuple[Path, str]:
    words = [str(each) for each in arguments]
    if ranks == 1:
        run, said = train(CHOICE, words, cwd)
    else:
        words.append("train.engine=fsdp2")
        (run, said), (none, silent) = told_by_ranks(partial(train, arguments=words, cwd=cwd), CHOICE, 2, LIMIT)
        assert (none, silent) == ("", "")
    return Path(run), said


SETTINGS = ["train.keep_checkpoints=9", "train.trackers=[jsonl]"]


@pytest.fixture(scope="module")
def made(config_file: Path, once: Callable[..., Path]) -> Path:
    """A config, and the same run of it by one process with two micro-batches and by two ranks, which write checkpoints
    beside training."""

    def train_both(folder: Path) -> None:
        config, before = Path(shutil.copy(config_file, folder / "config.yaml")), Path.cwd()
        try:
            trained([config, *SETTINGS, "--runs", "alone"], folder, ranks=1)
            trained([config, *SETTINGS, "train.checkpoint_async=true", "--runs", "ranks"], folder)
        finally:
            os.chdir(before)

    return once("sharded-runs", train_both)


@pytest.fixture(scope="module")
def arguments(made: Path) -> list[object]:
    return [made / "config.yaml", *SETTINGS]


@pytest.fixture(scope="module")
def runs(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """This worker's own copies: commands write into them."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("runs") / "copy")
    return {name: next(folder.glob(f"{name}/quickstart/2*")) for name in ("alone", "ranks")}


def newest(run: Path) -> Path:
    return sorted(run.glob("checkpoints/step-*"))[-1]


def test_no_file_of_its_checkpoint_has_the_whole_model(runs):
    names = {
        path.relative_to(newest(runs["ranks"])).as_posix() for path in newest(runs["ranks"]).rglob("*.safetensors")
    }
    assert names == {f"shards/{what}-0000{rank}.safetensors" for what in ("model", "optimizer") for rank in (0, 1)}


def test_what_is_exported_of_it_has_every_byte_of_one_process(runs, tmp_path):
    exported = {name: tmp_path / name for name in runs}
    for name, run in runs.items():
        run_command(["export", str(run), "--format", "hf", "--out", str(exported[name])])
    alone, ranks = (load_file(folder / "model.safetensors") for folder in exported.values())
    assert alone.keys() == ranks.keys()
    assert all(bool((alone[name] == ranks[name]).all()) for name in alone)


def test_every_command_that_opens_a_run_opens_it(runs, tmp_path):
    """With the figures of the run of one process, which has the same weights."""
    said = {name: run_command(["evaluate", str(run), "--json"]) for name, run in runs.items()}
    assert said["ranks"]["heldout_bits_per_byte"] == said["alone"]["heldout_bits_per_byte"]
    for path in (runs["ranks"], newest(runs["ranks"])):
        assert run_command(["generate", str(path), "--prompt", "def ", "--tokens", "3", "--json"])["new_tokens"] == 3
    artifact = tmp_path / "model.penstock"
    run_command(["export", str(runs["ranks"]), "--format", "penstock", "--out", str(artifact)])
    compared = run_command(["evaluate", str(runs["ranks"]), "--compare", str(artifact), "--json"])
    assert "2 shards" in json.dumps(compared)
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: small\nsteps: [{name: bf16, train: false, model: {quantizer: {weights: bf16}}}]\n")
    (_, row) = run_command(["compress", str(runs["ranks"]), "--plan", str(plan), "--seeds", "1", "--json"])["rows"]
    assert row["name"] == "bf16"
    run_command(["profile", str(runs["ranks"]), "--json"])
    run_command(["report", str(runs["ranks"])])


@pytest.mark.parametrize("first", ["alone", "ranks"])
def test_it_goes_on_with_the_other_engine_to_the_same_bits_and_says_so(arguments, runs, first, tmp_path):
    begun = Path(shutil.copytree(runs[first], tmp_path / "runs" / "quickstart" / runs[first].name))
    shutil.rmtree(newest(begun))
    again = [*arguments, "--runs", tmp_path / "runs", "--resume", begun]
    _, said = trained(again, tmp_path, ranks=1 if first == "ranks" else 2)
    assert "every bit stays that of an uninterrupted run" in said
    if first == "ranks":
        assert differences(outcome(begun), outcome(runs["alone"])) == []
    else:
        went_on, whole = shards.read(newest(begun)), shards.read(newest(runs["ranks"]))
        assert went_on.keys() == whole.keys()
        assert [name for name, tensor in whole.items() if not bool((went_on[name] == tensor).all())] == []
