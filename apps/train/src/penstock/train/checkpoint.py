"""Checkpoints are written atomically and verified before they are loaded.

    checkpoints/step-00000100/{model.safetensors or shards/,config.json,...,trainer.pt,engine.pt,plugins.lock.json,
                              manifest.json}
    checkpoints/latest

Written to a temporary folder; every file and the folder are synced; then one rename, a sync of the parent, and
`latest`. Where an engine cuts parameters, every rank writes and syncs its own shards (see `model_shards`), and `latest`
moves when all have. The checkpoint of a partly frozen model holds only the trained part, and `base.json` names its base
(see `PartlyFrozen`). `added.safetensors` holds what sharing and quantizers keep beside the weights. `manifest.json` has
the SHA-256 of every file: a damaged checkpoint is reported by name and the one before it is used. Its `format` is the
first that can read the checkpoint: 1 with whole weights, 2 with shards. A folder is renamed before it is deleted, so
every folder named `step-<n>` is whole, even if its writer was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from penstock.hooks.atomic import publish, read_json, write_json, write_text
from penstock.hooks.contracts import Engine, LanguageModel, PartlyFrozen, SharingPlan
from penstock.hooks.problems import ExitCode, Problem, ProblemError, failed
from penstock.run.plugin_lock import LOCK, Locked, lock_changes
from penstock.sharing.plan import plan_of, restored_state, stored_state
from penstock.train import model_shards, shards
from penstock.train.compose import Composition
from penstock.train.model_shards import ModelShards
from penstock.train.weights import checkpoint_state

T = TypeVar("T")
MANIFEST = "manifest.json"
MODEL = "model.safetensors"
TRAINER = "trainer.pt"
BASE = "base.json"
NEWER = "newer-checkpoint"
ADDED = "added.safetensors"
WHOLE, SHARDS = 1, 2
"""Values of `format` in the manifest; one that is higher was written by a newer version."""
_KNOWN = (MODEL, ADDED, "config.json", TRAINER, "tokenizer.json", LOCK, BASE)
"""Files that are read; an older checkpoint does not have all of them, but lists those that it has."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint folder."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.removeprefix("step-"))

    @property
    def weight_files(self) -> list[Path]:
        """The files that the model's weights are in."""
        parts = sorted((self.path / shards.FOLDER).glob(f"{model_shards.MODEL}-*"))
        return parts if shards.present(self.path) else [self.path / MODEL]

    def load(self, composition: Composition, engine: Engine | None = None) -> None:
        """Loads the weights, and what sharing and quantizers kept, into a model composed like the saved one, which an
        engine may hold in parts. What sharing kept comes first: a plan that was learned says which weights are one."""
        own_parts = shards.present(self.path) and model_shards.is_cut(composition.model)
        with nullcontext() if engine is None or own_parts else engine.full_state():
            composition.load_added_state(self._added_state(composition))
            self.load_model(composition.model, composition.stored_plan)

    def _added_state(self, composition: Composition) -> dict[str, Tensor]:
        """What sharing and quantizers kept. Shards have as parts of the model what is in the model itself: for that,
        what it has now stands here."""
        path = self.path / ADDED
        stored = load_file(path) if path.exists() else {}
        if not shards.present(self.path):
            return stored
        own = composition.added_state()
        beside = model_shards.beside(composition.model, own)
        return {name: tensor for name, tensor in own.items() if name not in beside} | stored

    def load_model(self, model: LanguageModel, plan: SharingPlan | None = None) -> None:
        """Loads the weights into a model that shares the same parameters as the saved one. `plan` says which tensors
        are one; None reads it off the model."""
        if shards.present(self.path):
            model_shards.load(self.path, model)
            return
        stored = load_file(self.path / MODEL)
        state = restored_state(stored, plan_of(checkpoint_state(model)) if plan is None else plan)
        model.load_trained_state(state) if isinstance(model, PartlyFrozen) else model.load_export_state(state)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file, by name."""
        return read_json(self.path / MANIFEST)["sha256"]

    def trainer_state(self) -> dict[str, Any]:
        """What the trainer keeps; raises `ProblemError` if the file does not hold it."""
        path = self.path / TRAINER
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # zip, pickle and torch each raise their own errors on damaged bytes
            first = str(error).partition("\n")[0]
            raise failed("bad-checkpoint", f"damaged ({first})", str(path), last_good(self.path.parent)) from error
        if not isinstance(state, dict) or "step" not in state:
            raise failed("bad-checkpoint", "not the state of a trainer", str(path), last_good(self.path.parent))
        return state

    def plugin_changes(self, now: Sequence[Locked]) -> list[str]:
        """One line for every component whose code differs from the code that trained the weights; empty if the
        checkpoint does not record it."""
        path = self.path / LOCK
        return lock_changes(read_json(path)["components"], now) if path.exists() else []

    def require_base(self, found: str | None) -> None:
        """Raises `ProblemError` if the frozen part of a model has another hash than the base that the rest was trained
        on; None for a model without one."""
        if found is None:
            return
        expected = read_json(self.path / BASE)["sha256"]
        if found != expected:
            what = f"the frozen base differs from the one trained on (hash was {expected[:12]}, is now {found[:12]})"
            fix = "restore the original weights at model.base, or start a new run"
            raise failed("other-base", what, str(self.path / BASE), fix)

    def require_tokenizer(self, expected_sha256: str) -> None:
        """Raises `ProblemError` if the model was trained with a different tokenizer than the data's."""
        path = self.path / "tokenizer.json"
        if sha256(path) != expected_sha256:
            what = "the checkpoint was trained with a different tokenizer than the data's"
            raise failed("tokenizer-mismatch", what, str(path), "prepare the data with the checkpoint's tokenizer")


@dataclass(frozen=True, slots=True)
class Contents:
    """What rank 0 writes of a checkpoint: everything but the state of engines and the shards of a cut model. `tensors`
    are by file and name."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    config: Mapping[str, Any]
    base: str | None
    trainer_state: Mapping[str, Any]
    tokenizer_folder: Path
    plugins: Sequence[Locked]

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        trainer_state: Mapping[str, Any],
        tokenizer_folder: Path,
        *,
        plugins: Sequence[Locked],
        plan: SharingPlan | None = None,
        added: Callable[[], Mapping[str, Tensor]] | None = None,
        base: str | None = None,
    ) -> Contents:
        """Reads them off the model, without a copy. `plan` says which tensors are one (None reads it off the model);
        `added` returns what sharing and quantizers keep; `base` is the hash of a frozen base where it is known."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        beside = {} if added is None else added()
        if model_shards.is_cut(model):
            beside = model_shards.beside(model, beside)
        else:
            state = checkpoint_state(model)
            tensors[MODEL] = stored_state(state, plan_of(state) if plan is None else plan)
        if beside:
            tensors[ADDED] = dict(beside)
        if isinstance(model, PartlyFrozen):
            base = base or model.base_hash()
        return cls(tensors, model.export_config(), base, trainer_state, tokenizer_folder, plugins)

    def with_copies(self, tensors: Mapping[str, Mapping[str, Tensor]], trainer_state: Mapping[str, Any]) -> Contents:
        return replace(self, tensors=tensors, trainer_state=trainer_state)

    def write(self, folder: Path) -> dict[str, str]:
        """Writes the files; returns the SHA-256 of each. Any thread may call it."""
        config = json.dumps(self.config, indent=2) + "\n"
        small = {"config.json": config.encode()} | {
            name: (self.tokenizer_folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")
        }
        for name, state in self.tensors.items():
            _save_tensors(state, folder / name)
        for name, content in small.items():
            (folder / name).write_bytes(content)
        with (folder / TRAINER).open("wb") as file:  # given a path, torch loses the reason why it cannot be written
            torch.save(dict(self.trainer_state), file)
        listed = {LOCK: {"components": self.plugins}} | ({} if self.base is None else {BASE: {"sha256": self.base}})
        for name, value in listed.items():
            write_json(folder / name, value)
        return {name: sha256(folder / name) for name in (*self.tensors, *small, TRAINER, *listed)}


def write_checkpoint(
    root: Path,
    step: int,
    model: LanguageModel,
    trainer_state: dict[str, Any],
    tokenizer_folder: Path,
    *,
    engine: Engine,
    plugins: Sequence[Locked],
    keep: int,
    plan: SharingPlan | None = None,
    added: Callable[[], Mapping[str, Tensor]] | None = None,
    base: str | None = None,
) -> Checkpoint:
    """Writes `step-<n>` under `root`, moves `latest` to it, and removes all but the newest `keep`. Every rank calls it:
    each writes the state of its engine and its part of a cut model, and rank 0 writes the rest (see `Contents`).

    Raises `ProblemError` on all ranks alike if one of them cannot write.
    """
    path = checkpoint_path(root, step)
    temporary: Path = engine.share(unpublished(path))
    first = engine.rank == 0

    def model_and_rest() -> dict[str, str]:
        with whole(engine, model):
            digests = ModelShards.of(model, engine.rank).write(temporary) if model_shards.is_cut(model) else {}
            if first:
                contents = Contents.of(
                    model, trainer_state, tokenizer_folder, plugins=plugins, plan=plan, added=added, base=base
                )
                digests |= contents.write(temporary)
        return digests

    try:
        on_all(engine, path, lambda: temporary.mkdir(parents=True) if first else None)
        of_engines = on_all(engine, path, lambda: engine.save(temporary))
        of_models = on_all(engine, path, model_and_rest)
        digests = [*of_engines, *of_models]
        on_all(engine, path, lambda: publish_checkpoint(temporary, path, digests, keep) if first else None)
    finally:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
    return Checkpoint(path)


def whole(engine: Engine, model: LanguageModel) -> AbstractContextManager[object]:
    """While it lasts, the model can be written: it is gathered, unless it is cut and written in parts."""
    return nullcontext() if model_shards.is_cut(model) else engine.full_state()


def on_all(engine: Engine, path: Path, work: Callable[[], T]) -> list[T]:
    """What this part of writing a checkpoint returns on each rank; raises on all what it fails with on any."""
    result, failure = None, None
    try:
        result = work()
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own error types
        failure = error
    told = engine.gather((result, None if failure is None else _cause(failure)))
    causes = [f"rank {rank}: {cause}" for rank, (_, cause) in enumerate(told) if cause is not None]
    if causes:
        what = "; ".join(causes) if engine.ranks > 1 else _cause(cast(BaseException, failure))
        raise ProblemError(_not_written(path, what), ExitCode.FAILED) from failure
    return [cast(T, result) for result, _ in told]


def checkpoint_path(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def unpublished(path: Path) -> Path:
    """The hidden folder that this process writes a checkpoint in; the next process removes what is left of it."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def publish_checkpoint(temporary: Path, path: Path, digests: Iterable[Mapping[str, str]], keep: int) -> None:
    """Makes a finished folder the newest checkpoint, and removes all but the newest `keep`. `digests` are the SHA-256
    of the files that each rank has written."""
    listed = {name: digest for of_rank in digests for name, digest in of_rank.items()}
    form = SHARDS if shards.present(temporary) else WHOLE
    write_json(temporary / MANIFEST, {"format": form, "step": Checkpoint(path).step, "sha256": listed})
    _put_in_place(temporary, path, keep)


def cannot_write(path: Path, error: BaseException, engine: Engine) -> ProblemError:
    on = f"rank {engine.rank}: " if engine.ranks > 1 else ""
    return ProblemError(_not_written(path, f"{on}{_cause(error)}"), ExitCode.FAILED)


def _not_written(path: Path, cause: str) -> Problem:
    return Problem("cannot-write", f"the checkpoint cannot be written ({cause})", str(path), last_good(path.parent))


def _save_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: each.detach().contiguous() for name, each in state.items()}, path, metadata={"format": "pt"})


def _put_in_place(temporary: Path, path: Path, keep: int) -> None:
    root = path.parent
    if path.exists():  # a damaged one, which a resumed run skipped
        _remove(path)
    publish(temporary, path)
    _point_latest(root, path.name)
    for name in _obsolete(_names(root), path.name, keep):
        _remove(root / name)


def newest_checkpoint(root: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint, with a warning for each damaged one that was skipped; None if none was ever written.

    Raises `ProblemError` if all are damaged: starting over silently could lose what may still be recovered.
    """
    names = _names(root)
    for name in reversed(names):
        try:
            return verify_checkpoint(root / name)
        except ProblemError as error:
            if any(problem.code == NEWER for problem in error.problems):
                raise  # it is whole: to continue from the one before it would lose it
            warn(f"{error}; trying the checkpoint before it")
    if names:
        fix = "restore one from a backup; to train again from the beginning, delete the folder or start a new run"
        raise failed("no-whole-checkpoint", f"all checkpoints are damaged ({', '.join(names)})", str(root), fix)
    return None


def verify_checkpoint(path: Path) -> Checkpoint:
    """Compares every file with the manifest; raises a `ProblemError` that names the damaged ones, or that says that a
    newer version wrote the checkpoint."""
    try:
        manifest = read_json(path / MANIFEST)
        if manifest.get("format", WHOLE) > SHARDS:
            what = (
                f"written by a newer version of Penstock (format {manifest['format']}; this one reads up to {SHARDS})"
            )
            raise failed(NEWER, what, str(path), "install the version that wrote it, or a later one")
        expected = manifest["sha256"]
        damaged = [name for name, digest in expected.items() if not _holds(path / name, digest)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise failed("bad-checkpoint", f"{MANIFEST} is missing or damaged", str(path)) from error
    there = [*_KNOWN, *(f"{shards.FOLDER}/{file.name}" for file in (path / shards.FOLDER).glob("*.safetensors"))]
    unlisted = [name for name in there if name not in expected and (path / name).exists()]
    if damaged or unlisted:
        what = "; ".join(
            f"{said}: {', '.join(names)}"
            for said, names in (("damaged files", damaged), (f"files that {MANIFEST} does not list", unlisted))
            if names
        )
        raise failed("bad-checkpoint", what, str(path))
    return Checkpoint(path)


def tidy(root: Path, newest: Checkpoint | None) -> None:
    """Cleans up after a killed writer: removes its leftovers and points `latest` at the checkpoint to continue from.
    Only for the process that holds the run's lock."""
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover)
    if newest is not None:
        _point_latest(root, newest.path.name)


def last_good(root: Path) -> str:
    """The part of an error message that says what is not lost."""
    names = _names(root)
    return f"the last good checkpoint is {root / names[-1]}" if names else "there is no earlier checkpoint"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(path: Path, digest: str) -> bool:
    try:
        return sha256(path) == digest
    except OSError:  # missing, or on a bad sector
        return False


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("step-*") if path.is_dir())


def _obsolete(names: list[str], written: str, keep: int) -> list[str]:
    """All but the newest `keep` up to `written`. Later ones are damaged, or the run would have continued from them."""
    ours = names.index(written) + 1
    return [*names[: max(0, ours - keep)], *names[ours:]]


def _remove(path: Path) -> None:
    hidden = path.with_name(f".{path.name}.removed")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _point_latest(root: Path, name: str) -> None:
    write_text(root / "latest", name + "\n")


def _cause(error: BaseException) -> str:
    """The system's reason: after a failed write, torch raises its own error on top of it while closing its archive."""
    first: BaseException | None = error
    while first is not None and not isinstance(first, OSError):
        first = first.__context__
    return str(error if first is None else first.strerror or first)
