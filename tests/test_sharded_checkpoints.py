"""Whichever engine and number of ranks wrote a checkpoint, any other reads every bit of it, and goes on alike."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sharded_checkpoints as ask

from penstock.conformance.ranks import ranks_asked, told_by_ranks
from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError
from penstock.train import shards
from penstock.train.checkpoint import newest_checkpoint, tidy, verify_checkpoint

LIMIT = 120.0  # seconds that ranks have: a hang is a failure
CHOICE: Any = Registry.discover().choose("engine", "fsdp2")
KINDS = ["local", "ddp", "fsdp2"]


def folder_of_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    return folder / "checkpoints"


def train(folder: Path) -> None:
    for path in (path for kind in KINDS for path in ask.roots(folder, kind).values()):
        folder_of_tokenizer(path.parent)
    by_ranks = {
        kind: told_by_ranks(partial(ask.train, folder=folder, kind=kind), CHOICE, 2, LIMIT) for kind in KINDS[1:]
    }
    trained = {"local": [ask.train(CHOICE, folder, "local")], **by_ranks}
    (folder / "trained").write_bytes(pickle.dumps(trained))


@pytest.fixture(scope="module")
def folder(once: Callable[..., Path]) -> Path:
    return once("sharded-checkpoints", train)


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Any]:
    """What each engine has at its checkpoint and a step later, with two micro-batches or two ranks."""
    return pickle.loads((folder / "trained").read_bytes())


@pytest.fixture(scope="module")
def continued(folder: Path, once: Callable[..., Path]) -> dict[str, Any]:
    """The same of each engine that reads each other's checkpoint."""
    everyone = tuple(KINDS)

    def go_on(to: Path) -> None:
        by_ranks = {
            kind: told_by_ranks(partial(ask.go_on, folder=folder, kind=kind, wrote=everyone), CHOICE, 2, LIMIT)
            for kind in KINDS[1:]
        }
        continued = {"local": [ask.go_on(CHOICE, folder, "local", everyone)], **by_ranks}
        (to / "continued").write_bytes(pickle.dumps(continued))

    return pickle.loads((once("sharded-checkpoints-continued", go_on) / "continued").read_bytes())


@pytest.mark.parametrize("case", ask.CASES)
@pytest.mark.parametrize("writer", KINDS)
@pytest.mark.parametrize("reader", KINDS)
def test_every_engine_continues_from_every_other_to_the_same_bits(trained, continued, reader, writer, case):
    """Weights, buffers, and the state of the optimizer by the name of the parameter."""
    unbroken = trained["local"][0][case]
    for rank in continued[reader]:
        found = rank[case, writer]
        for when in ("saved", "ended"):
            assert found[when].keys() == unbroken[when].keys()
            assert [name for name, digest in unbroken[when].items() if found[when][name] != digest] == []


def test_three_ranks_read_what_two_wrote_and_one_process_what_three_did(trained, folder, tmp_path):
    three = told_by_ranks(partial(ask.pass_on, folder=folder, to=tmp_path), CHOICE, 3, LIMIT)
    for name, case in ask.CASES.items():
        before = trained["fsdp2"][0][name]["saved"]
        engine = ask.engine_of("local")
        again = ask.restored(case, engine, ask.roots(tmp_path, "fsdp2")[name])
        assert [rank[name] for rank in three] == 3 * [before]
        assert again.bits() == before


def test_a_rank_that_cannot_write_is_named_by_all_and_the_checkpoint_before_stays(tmp_path):
    root = folder_of_tokenizer(tmp_path / "run")
    said = told_by_ranks(partial(ask.full_disk, root=root), CHOICE, 2, LIMIT)
    assert said[0] == said[1]
    assert "the checkpoint cannot be written (rank 1: No space left on device)" in said[0]
    assert f"the last good checkpoint is {root / 'step-00000002'}" in said[0]
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-00000002"]
    assert (root / "latest").read_text() == "step-00000002\n"


@pytest.mark.parametrize("when", [1, 2], ids=["optimizer", "model"])
def test_where_a_rank_dies_in_a_save_the_newest_whole_checkpoint_is_found(when, tmp_path):
    root = folder_of_tokenizer(tmp_path / "run")
    first, second = ranks_asked(partial(ask.death, root=root, when=when), CHOICE, 2, LIMIT)
    assert second.status == -signal.SIGKILL
    assert "another rank" in first.answer
    newest = newest_checkpoint(root, pytest.fail)
    assert newest is not None
    tidy(root, newest)
    assert newest.step == 2
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-00000002"]


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: bytes([data[0] ^ 1]) + data[1:], None])
@pytest.mark.parametrize("file", ["model-00001.safetensors", "optimizer-00000.safetensors"])
def test_a_shard_that_is_damaged_or_missing_is_named(trained, folder, tmp_path, file, damage):
    copy = tmp_path / "step-00000002"
    shutil.copytree(ask.roots(folder, "fsdp2")["tied-muon"] / copy.name, copy)
    shard = copy / "shards" / file
    shard.unlink() if damage is None else shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ProblemError, match=f"damaged files: shards/{file}"):
        verify_checkpoint(copy)


def test_a_shard_that_the_manifest_does_not_list_is_named(trained, folder, tmp_path):
    copy = tmp_path / "step-00000002"
    shutil.copytree(ask.roots(folder, "fsdp2")["tied-muon"] / copy.name, copy)
    shutil.copyfile(copy / "shards" / "model-00000.safetensors", copy / "shards" / "model-00002.safetensors")
    with pytest.raises(ProblemError, match=r"does not list: shards/model-00002.safetensors"):
        verify_checkpoint(copy)


def test_the_manifest_says_which_form_a_checkpoint_has(trained, folder):
    files = {kind: ask.roots(folder, kind)["tied-muon"] / "step-00000002" / "manifest.json" for kind in KINDS}
    forms = {kind: json.loads(file.read_text()) for kind, file in files.items()}
    assert {kind: manifest["format"] for kind, manifest in forms.items()} == {"local": 1, "ddp": 1, "fsdp2": 2}
    assert "model.safetensors" not in forms["fsdp2"]["sha256"]


def test_each_rank_writes_its_share(trained, folder):
    """No rank's file is larger than half of the tensors and what a header takes."""
    path = ask.roots(folder, "fsdp2")["tied-muon"] / "step-00000002/shards"
    whole = sum(tensor.nbytes for tensor in shards.read(path.parent).values())
    sizes = [sum(file.stat().st_size for file in path.glob(f"*-0000{rank}.safetensors")) for rank in range(2)]
    assert all(0.45 * whole < size < 0.6 * whole for size in sizes)
