"""A checkpoint is whole or not there; a damaged one is named and the one before it is used."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from penstock.hooks import atomic
from penstock.hooks.problems import ProblemError
from penstock.train import checkpoint as module
from penstock.train.checkpoint import Checkpoint, newest_checkpoint, tidy, verify_checkpoint, write_checkpoint
from penstock.train.engines.local import LocalEngine
from penstock.train.objectives.next_token import NextToken
from penstock.train.step_module import StepModule


class Toy(nn.Module):
    """The part of a language model that checkpoints use."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 3), float(value)))

    def export_config(self) -> dict:
        return {"model_type": "toy"}

    def export_state(self) -> dict[str, torch.Tensor]:
        return dict(self.state_dict())

    def load_export_state(self, state) -> None:
        self.load_state_dict(dict(state))


def toy(value: float) -> Any:
    """A `Toy` where a whole language model is asked for."""
    return Toy(value)


def engine() -> LocalEngine:
    """One that has nothing to step."""
    made = LocalEngine(device=torch.device("cpu"))
    made.prepare(
        StepModule(toy(0.0), NextToken()), lambda module: torch.optim.SGD(module.parameters()), lambda progress: 1.0
    )
    return made


def newest(root: Path, warn: Callable[[str], Any]) -> Checkpoint:
    found = newest_checkpoint(root, warn)
    assert found is not None
    return found


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def root(tmp_path: Path, tokenizer: Path) -> Path:
    """Checkpoints of steps 1 and 2, whose weights are their step."""
    for step in (1, 2):
        write_checkpoint(
            tmp_path / "checkpoints", step, toy(step), {"step": step}, tokenizer, engine=engine(), plugins=[], keep=5
        )
    return tmp_path / "checkpoints"


def test_what_was_written_is_read_back(root):
    found = newest(root, pytest.fail)
    model = toy(0.0)
    found.load_model(model)
    assert (found.step, found.trainer_state()) == (2, {"step": 2})
    assert torch.equal(model.weight, torch.full((2, 3), 2.0))
    assert (root / "latest").read_text() == "step-00000002\n"
    assert json.loads((found.path / "config.json").read_text()) == {"model_type": "toy"}


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt", "config.json", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: bytes([data[0] ^ 1]) + data[1:], None])
def test_any_damage_is_named_and_the_checkpoint_before_is_used(root, name, damage):
    path = root / "step-00000002" / name
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    warnings: list[str] = []
    assert newest(root, warnings.append).step == 1
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]
    assert name in warnings[0]


def test_where_all_are_damaged_nothing_is_begun_anew_in_silence(root):
    for path in root.glob("step-*/trainer.pt"):
        path.unlink()
    warnings: list[str] = []
    with pytest.raises(ProblemError, match=r"all checkpoints are damaged \(step-00000001, step-00000002\)"):
        newest_checkpoint(root, warnings.append)
    assert len(warnings) == 2


def test_where_none_was_written_there_is_none(tmp_path):
    assert newest_checkpoint(tmp_path / "checkpoints", pytest.fail) is None


def test_only_the_newest_are_kept(root, tokenizer):
    write_checkpoint(root, 3, toy(3), {"step": 3}, tokenizer, engine=engine(), plugins=[], keep=2)
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-00000002", "step-00000003"]


def test_a_damaged_one_of_a_later_step_takes_no_place_of_a_whole_one(root, tokenizer):
    write_checkpoint(root, 9, toy(9), {"step": 9}, tokenizer, engine=engine(), plugins=[], keep=5)
    (root / "step-00000009" / "trainer.pt").unlink()
    write_checkpoint(root, 3, toy(3), {"step": 3}, tokenizer, engine=engine(), plugins=[], keep=2)
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-00000002", "step-00000003"]


def test_a_checkpoint_is_tied_to_its_tokenizer(root):
    found = newest(root, pytest.fail)
    found.require_tokenizer(module.sha256(found.path / "tokenizer.json"))
    with pytest.raises(ProblemError, match="a different tokenizer"):
        found.require_tokenizer("0" * 64)


@pytest.mark.parametrize(
    ("place", "point"),
    [
        (module, "save_file"),
        (module, "write_json"),
        (module, "publish"),
        (atomic, "sync_files"),
        (atomic, "sync"),
        (module, "_point_latest"),
    ],
)
def test_a_full_disk_at_any_point_keeps_the_checkpoint_before(root, tokenizer, monkeypatch, place, point):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, point, full)
        with pytest.raises(ProblemError, match="No space left on device"):
            write_checkpoint(root, 3, toy(3), {"step": 3}, tokenizer, engine=engine(), plugins=[], keep=5)
    assert verify_checkpoint(root / "step-00000002").step == 2
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    found = newest(root, pytest.fail)
    assert found.step == (3 if (root / "step-00000003").exists() else 2)


@pytest.mark.parametrize("error", [SafetensorError("I/O error: File too large"), RuntimeError("unexpected pos 64")])
def test_errors_of_the_libraries_that_write_are_named_too(root, tokenizer, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(ProblemError, match=r"the last good checkpoint is .*step-00000002"):
        write_checkpoint(root, 3, toy(3), {"step": 3}, tokenizer, engine=engine(), plugins=[], keep=5)
    assert not list(root.glob(".step-*"))


def test_what_a_killed_writer_began_is_ended_by_the_next_process(root):
    (root / ".step-00000009.123").mkdir()
    (root / "latest").write_text("step-00000001\n")
    tidy(root, newest(root, pytest.fail))
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-00000001", "step-00000002"]
    assert (root / "latest").read_text() == "step-00000002\n"


def test_leftovers_of_a_killed_writer_are_no_checkpoint(root):
    (root / ".step-00000009.123").mkdir()
    assert newest(root, pytest.fail).step == 2


def test_a_checkpoint_of_a_newer_version_is_refused_by_name_and_none_is_used_in_its_place(root):
    path = root / "step-00000002" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    with pytest.raises(ProblemError, match=r"step-00000002: written by a newer version of Penstock \(format 3"):
        newest_checkpoint(root, pytest.fail)


def test_a_checkpoint_from_before_formats_were_numbered_opens(root):
    path = root / "step-00000002" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["format"]
    path.write_text(json.dumps(manifest))
    assert newest(root, pytest.fail).step == 2


def test_an_earlier_version_reads_whole_checkpoints_still(root):
    """Their manifest has the format that it always had, and their files the names."""
    manifest = json.loads((root / "step-00000002" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert {"model.safetensors", "engine.pt", "trainer.pt"} <= manifest["sha256"].keys()
