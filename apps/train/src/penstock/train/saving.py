"""Checkpoints that are written beside training, from a copy.

At its step every rank copies what it will write (`Buffers`); this copy is all that training waits for. A thread of each
rank writes, hashes and syncs its files in the checkpoint's hidden folder, and asks no other rank. What all ranks sum
after each step anyway, the requests to stop, also says which of them are still writing. When none is, rank 0's thread
makes the folder a checkpoint. The loss of at least one later step was finite by then, so no diverged model is kept, and
a process that is killed before leaves a hidden folder, which the next one removes.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from penstock.hooks.atomic import sync
from penstock.hooks.contracts import Engine, LanguageModel, Staged, StagingEngine
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run import messages
from penstock.train.checkpoint import (
    Contents,
    cannot_write,
    checkpoint_path,
    publish_checkpoint,
    unpublished,
)
from penstock.train.model_shards import ModelShards, is_cut
from penstock.train.staging import Buffers

GRACE = 5.0  # seconds that a failed run gives the file that is being written
LEAST_PRIORITY = 19


class Job(threading.Thread):
    """A call in a thread that takes the time that training leaves."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(name="checkpoint", daemon=True)  # a process that is told to end at once does not wait for it
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    @property
    def done(self) -> bool:
        return not self.is_alive()

    def run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_PRIORITY)
        try:
            self.result = self._call()
        except BaseException as error:  # raised where the thread that trains asks for it
            self.error = error


@dataclass(slots=True)
class Pending:
    """A checkpoint that is being written, or then published."""

    path: Path
    temporary: Path
    job: Job
    publishing: bool = False


class BackgroundSaver:
    """Writes checkpoints of one run beside training, one at a time. All ranks call `agree`, `begin` and `finish` at the
    same steps."""

    def __init__(self, root: Path, engine: Engine, *, keep: int) -> None:
        self.root, self.engine, self.keep = root, engine, keep
        self._buffers = Buffers()
        self._pending: Pending | None = None
        self._abandoned = threading.Event()

    def agree(self, stop: bool) -> bool:
        """Whether any rank says so. Moves the pending checkpoint on where all ranks are ready, and raises what a
        thread failed with."""
        if self._pending is None:
            return self.engine.agree(stop)
        done, error = self._pending.job.done, self._pending.job.error
        flags = torch.tensor([stop, not done, done and error is not None], dtype=torch.int64, device=self.engine.device)
        stops, writing, broken = self.engine.total(flags).tolist()
        if broken:
            self._fail(error if done else None)
        if not writing:
            self._advance(self._pending)
        return stops > 0

    def begin(
        self,
        step: int,
        model: LanguageModel,
        contents: Callable[[], Contents],
        *,
        trained: Sequence[Tensor],
        diverged: Callable[[], Exception],
        before: Iterable[Callable[[], None]],
    ) -> None:
        """Copies the state of this step and begins to write it. `contents` is called on rank 0. `trained` are the
        rank's parts of parameters, which have to be finite: else `diverged()` is raised. `before` is called before the
        files are written."""
        if self._pending is not None:
            self._say_that_training_waits(self._pending, step)
            self.finish()
        path = checkpoint_path(self.root, step)
        temporary: Path = self.engine.share(unpublished(path))
        staged, copies = self._staged(model, contents, trained)
        write = partial(self._write, path, temporary, staged, copies, diverged, list(before))
        self._pending = Pending(path, temporary, Job(write))

    def finish(self) -> None:
        """Waits until nothing is pending any more."""
        while self._pending is not None:
            self._pending.job.join()
            self.agree(False)

    def settle(self) -> None:
        """Waits until this rank has published the checkpoint that it is publishing. An error message can then name the
        newest checkpoint."""
        if self._pending is not None and self._pending.publishing:
            self._pending.job.join()

    def abandon(self) -> None:
        """Ends what is pending after an error: a checkpoint that is not written by now will not be one."""
        self._abandoned.set()
        if self._pending is not None:
            self._pending.job.join(GRACE)
            if self._pending.job.done and self.engine.rank == 0:
                shutil.rmtree(self._pending.temporary, ignore_errors=True)

    def _fail(self, error: BaseException | None) -> NoReturn:
        """All ranks raise alike what the threads of some failed with; what is no `Problem` is a bug of this rank."""
        problems = list(error.problems) if isinstance(error, ProblemError) else []
        if error is not None and not problems:
            problems = [Problem("rank-lost", f"another rank exited ({error!r})", f"rank {self.engine.rank}")]
        told = [each for of_rank in self.engine.gather(problems) for each in of_rank]
        if error is None or isinstance(error, ProblemError):
            raise ProblemError(list(dict.fromkeys(told)), ExitCode.FAILED) from error
        raise error

    def _staged(
        self, model: LanguageModel, contents: Callable[[], Contents], trained: Sequence[Tensor]
    ) -> tuple[list[Staged], Sequence[Tensor]]:
        """Copies of what this rank writes, and of the parameters that it looks at: its own, or those that all have."""
        first = self.engine.rank == 0
        staged: list[Staged] = [cast(StagingEngine, self.engine).stage()]
        cut = is_cut(model)
        with nullcontext() if cut else self.engine.full_state():
            parts = ModelShards.of(model, self.engine.rank) if cut else None
            rest = contents() if first else None
            tensors, state, shards, copies = self._buffers.copied(
                (
                    {} if rest is None else rest.tensors,
                    {} if rest is None else rest.trainer_state,
                    {} if parts is None else {name: part.tensor for name, part in parts.parts.items()},
                    list(trained) if first or parts is not None else [],
                )
            )
        if parts is not None:
            staged.append(parts.with_copies(shards))
        if rest is not None:
            staged.append(rest.with_copies(tensors, state))
        return staged, copies

    def _say_that_training_waits(self, pending: Pending, step: int) -> None:
        if self.engine.rank == 0 and not pending.job.done:
            messages.note(
                f"training waits: the checkpoint of step {step} is due, and {pending.path.name} is still being written"
            )

    def _advance(self, pending: Pending) -> None:
        if pending.publishing:
            self._pending = None
            return
        digests = self.engine.gather(pending.job.result)
        publish = partial(self._publish, pending, digests) if self.engine.rank == 0 else _nothing
        pending.publishing, pending.job = True, Job(publish)

    def _write(
        self,
        path: Path,
        folder: Path,
        parts: Sequence[Staged],
        trained: Sequence[Tensor],
        diverged: Callable[[], Exception],
        before: Sequence[Callable[[], None]],
    ) -> dict[str, str]:
        """In the thread: this rank's files, on disk; returns their SHA-256."""
        if not all(map(_finite, trained)):
            raise diverged()
        digests: dict[str, str] = {}
        try:
            for each in before:
                each()
            folder.mkdir(parents=True, exist_ok=True)
            for part in parts:
                if not self._abandoned.is_set():
                    digests |= part.write(folder)
            for name in digests:
                sync(folder / name)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own error types
            raise cannot_write(path, error, self.engine) from error
        return digests

    def _publish(self, pending: Pending, digests: Iterable[Mapping[str, str]]) -> None:
        """In the thread of rank 0."""
        try:
            publish_checkpoint(pending.temporary, pending.path, digests, self.keep)
        except OSError as error:
            raise cannot_write(pending.path, error, self.engine) from error


def _nothing() -> None: ...


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers of a CPU tensor are finite. numpy uses one thread, where torch would start a pool of its own
    in every thread that asks."""
    if tensor.dtype in (torch.float32, torch.float64, torch.float16):
        values = tensor.numpy().reshape(-1)
        return all(bool(np.isfinite(values[at : at + 2**20]).all()) for at in range(0, len(values), 2**20))
    return bool(tensor.isfinite().all())
