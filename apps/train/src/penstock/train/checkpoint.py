"""Checkpoints that are whole or not there, and are checked before they are trusted.

    checkpoints/step-00000100/{model.safetensors,config.json,tokenizer.json,...,trainer.pt,manifest.json}
    checkpoints/latest

Written to a temporary folder; every file and the folder are synced; then one rename, a sync of the parent, and
`latest`. `manifest.json` has the SHA-256 of every file: a damaged checkpoint is named and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from penstock.cli.output import failed
from penstock.cli.run_directory import read_json, sync_folder, write_json
from penstock.hooks.contracts import LanguageModel
from penstock.hooks.problems import ProblemError

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint folder."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    def load_model(self, model: LanguageModel) -> None:
        model.load_export_state(load_file(self.path / "model.safetensors"))

    def trainer_state(self) -> dict[str, Any]:
        return torch.load(self.path / "trainer.pt", weights_only=True, map_location="cpu")


def write_checkpoint(
    root: Path, step: int, model: LanguageModel, trainer_state: dict[str, Any], tokenizer_folder: Path, *, keep: int
) -> Checkpoint:
    """Writes `step-<n>` under `root`, moves `latest` to it, and removes all but the newest `keep`."""
    path = root / f"step-{step:08d}"
    temporary = root / f".{path.name}.{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".step-*"):  # of a process that was killed: the run's lock is ours
            shutil.rmtree(leftover)
        temporary.mkdir()
        tensors = {name: tensor.detach().contiguous() for name, tensor in model.export_state().items()}
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(model.export_config(), indent=2) + "\n", encoding="utf-8")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer_folder / name, temporary / name)
        torch.save(trainer_state, temporary / "trainer.pt")
        write_json(
            temporary / MANIFEST,
            {"format": 1, "step": step, "sha256": {file.name: sha256(file) for file in sorted(temporary.iterdir())}},
        )
        for file in temporary.iterdir():
            _sync_file(file)
        sync_folder(temporary)
        if path.exists():  # a resumed run came here again
            shutil.rmtree(path)
        temporary.rename(path)
        sync_folder(root)
        _point_latest(root, path.name)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        before = _names(root)
        fix = f"the last good checkpoint is {root / before[-1]}" if before else "there is no earlier checkpoint"
        what = f"the checkpoint cannot be written ({getattr(error, 'strerror', None) or error})"
        raise failed("cannot-write", what, str(path), fix) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for name in _names(root)[:-keep]:
        shutil.rmtree(root / name)
    return Checkpoint(path)


def newest_checkpoint(root: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; says which damaged ones it passed over. None where there is none."""
    for name in reversed(_names(root)):
        try:
            return verify_checkpoint(root / name)
        except ProblemError as error:
            warn(f"{error}; trying the checkpoint before it")
    return None


def verify_checkpoint(path: Path) -> Checkpoint:
    """Compares every file with the manifest; raises `ProblemError` that names the damaged ones."""
    try:
        expected = read_json(path / MANIFEST)["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise failed("bad-checkpoint", f"{MANIFEST} is missing or damaged", str(path)) from error
    damaged = [
        name for name, digest in expected.items() if not (path / name).is_file() or sha256(path / name) != digest
    ]
    if damaged:
        raise failed("bad-checkpoint", f"damaged: {', '.join(damaged)}", str(path))
    return Checkpoint(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("step-*") if path.is_dir())


def _point_latest(root: Path, name: str) -> None:
    temporary = root / f".latest.{os.getpid()}"
    temporary.write_text(name + "\n", encoding="utf-8")
    _sync_file(temporary)
    temporary.replace(root / "latest")
    sync_folder(root)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
