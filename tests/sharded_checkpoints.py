"""What `test_sharded_checkpoints.py` asks of ranks: they train small models, write checkpoints of them, and continue
from those that other engines wrote, with the functions that `penstock train` uses."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
from sharded import FROZEN, GLM, GPT, Case, Run

from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Choice
from penstock.train import shards
from penstock.train.checkpoint import verify_checkpoint, write_checkpoint
from penstock.train.engines.ddp import DataParallelEngine
from penstock.train.engines.fsdp2 import ShardedEngine
from penstock.train.engines.local import LocalEngine

BEFORE = 2  # steps before the checkpoint
SHARED = "model.sharing=[tied-embeddings, {use: cross-layer, per_use: {gains: true, norms: true}}]"
TERNARY = "model.quantizer={weights: ternary-learned, embedding: int8, head: int8}"
CASES = {
    "shared-ternary": Case("quickstart.yaml", (*GLM, SHARED, TERNARY, "train.optimizer={use: adamw, lr: 0.01}")),
    "tied-muon": Case("gpt.yaml", GPT),
    "frozen-base": Case("frozen-base.yaml", (*FROZEN, "model.expert_size=16")),
}
ENGINES = {"ddp": DataParallelEngine, "fsdp2": ShardedEngine}


def engine_of(kind: str) -> Any:
    more: dict[str, Any] = {} if kind == "local" else {"timeout": 0.5}
    if kind == "fsdp2":
        more["least_layer"] = 0  # each layer in a group of its own, as large ones are
    return {"local": LocalEngine, **ENGINES}[kind](device=torch.device("cpu"), **more)


def save(run: Run, root: Path, step: int = BEFORE) -> None:
    composition = run.composition
    write_checkpoint(
        root,
        step,
        composition.model,
        {"step": step, "balancing": run.balancing.state()},
        root.parent,  # of a tokenizer
        engine=run.engine,
        plugins=[],
        keep=3,
        plan=composition.stored_plan,
        added=composition.added_state,
        base=composition.base_hash,
    )


def trained(case: Case, engine: Any, root: Path) -> dict[str, Any]:
    """Every bit after the checkpoint at `root`, and after the step that follows it."""
    run = Run(case, engine, 2 // engine.ranks)
    for number in range(BEFORE):
        list(run.step(number))
    with patch.object(ShardedEngine, "full_state", side_effect=AssertionError("a save gathers the model")):
        save(run, root)
    saved = run.bits()
    list(run.step(BEFORE))
    return {"saved": saved, "ended": run.bits()}


def restored(case: Case, engine: Any, root: Path) -> Run:
    """A new run that has read the checkpoint at `root`."""
    run = Run(case, engine, max(1, 2 // engine.ranks))
    checkpoint = verify_checkpoint(root / f"step-{BEFORE:08d}")
    checkpoint.require_base(run.composition.base_hash)
    checkpoint.load(run.composition, engine)
    engine.load(checkpoint.path)
    run.balancing.load_state(checkpoint.trainer_state()["balancing"])
    return run


def continued(case: Case, engine: Any, root: Path) -> dict[str, Any]:
    """Every bit of a new run that has read the checkpoint at `root`, and after the step that follows it."""
    run = restored(case, engine, root)
    saved = run.bits()
    list(run.step(BEFORE))
    return {"saved": saved, "ended": run.bits()}


def roots(folder: Path, kind: str) -> dict[str, Path]:
    return {name: folder / f"{kind}-{name}" / "checkpoints" for name in CASES}


def train(choice: Choice, folder: Path, kind: str) -> dict[str, Any]:
    """Trains every case from the beginning, on this rank."""
    engine = engine_of(kind)
    found = {name: trained(CASES[name], engine, root) for name, root in roots(folder, kind).items()}
    engine.close()
    return found


def go_on(choice: Choice, folder: Path, kind: str, wrote: tuple[str, ...]) -> dict[tuple[str, str], Any]:
    """Continues every case from the checkpoints of the other engines, on this rank."""
    engine = engine_of(kind)
    found = {
        (name, theirs): continued(CASES[name], engine, root)
        for theirs in wrote
        for name, root in roots(folder, theirs).items()
    }
    engine.close()
    return found


def pass_on(choice: Choice, folder: Path, to: Path) -> dict[str, Any]:
    """Reads the checkpoints of `fsdp2` and writes them again, on this rank."""
    engine = engine_of("fsdp2")
    found: dict[str, Any] = {}
    for name, root in roots(folder, "fsdp2").items():
        run = restored(CASES[name], engine, root)
        found[name] = run.bits()
        other = roots(to, "fsdp2")[name]
        if engine.rank == 0:
            shutil.copytree(root.parent, other.parent, ignore=shutil.ignore_patterns(root.name))
        engine.barrier()
        save(run, other)
    engine.close()
    return found


def full_disk(choice: Choice, root: Path) -> str:
    """Returns what this rank raises when rank 1 cannot write its part of a second checkpoint."""
    engine = engine_of("fsdp2")
    run = Run(CASES["tied-muon"], engine, 1)
    save(run, root)
    error = OSError(errno.ENOSPC, "No space left on device")
    try:
        with patch.object(shards, "save_file", side_effect=error if engine.rank == 1 else safetensors.torch.save_file):
            save(run, root, BEFORE + 1)
    except ProblemError as raised:
        return str(raised)
    finally:
        engine.close()
    return ""


def death(choice: Choice, root: Path, when: int) -> str:
    """Rank 1 dies at one of its writes of a second checkpoint; the answer is what the other says."""
    engine = engine_of("fsdp2")
    run = Run(CASES["tied-muon"], engine, 1)
    save(run, root)
    written = 0

    def write(*arguments: Any, **more: Any) -> None:
        nonlocal written
        written += 1
        if engine.rank == 1 and written == when:
            os.kill(os.getpid(), signal.SIGKILL)
        safetensors.torch.save_file(*arguments, **more)

    try:
        with patch.object(shards, "save_file", write):
            save(run, root, BEFORE + 1)
    except ProblemError as raised:
        return str(raised)
    return ""
