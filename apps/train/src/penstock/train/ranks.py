"""What the processes of a distributed run agree on before they begin."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from penstock.hooks.contracts import Engine
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run.config import RunConfig, TrainSettings
from penstock.run.plugin_lock import Locked
from penstock.train.compose import pick_device

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]  # `Engine.gather`


@contextmanager
def joined(config: RunConfig) -> Iterator[Engine]:
    """The config's engine, joined by all ranks with the same config; it is closed at the end, and the other ranks learn
    of an error."""
    choice = config.train.engine
    engine: Engine = choice.build(device=pick_device(config.train.device))
    try:
        _require_one_engine(engine, choice.entry.component.name)
        micro_batches(config.train, engine.ranks)
        require_same(_leaves(config.resolved()), engine.gather, "give all ranks the same config")
        yield engine
    except BaseException as error:
        engine.close(error)
        raise
    engine.close()


def micro_batches(train: TrainSettings, ranks: int) -> int:
    """Forward passes of each rank in a step; raises `ProblemError` if the batch does not divide evenly."""
    size = train.micro_batch_size or train.batch_size // ranks
    if size == 0 or train.batch_size % (ranks * size):
        each = f" in micro-batches of {size}" if train.micro_batch_size else ""
        what = f"a batch of {train.batch_size} sequences cannot be split over {ranks} ranks{each}"
        fix = f"use a multiple of {ranks * max(size, 1)}, or change the number of processes"
        raise ProblemError(Problem("indivisible-batch", what, "train.batch_size", fix))
    return train.batch_size // (ranks * size)


def require_same_plugins(plugins: Sequence[Locked], gather: Gather) -> None:
    """Raises `ProblemError` on every rank, with exit code 3, if some rank has other components or other component code
    than rank 0: their gradients would be summed all the same."""
    told = {f"{each['kind']} {each['distribution']}:{each['name']}": _told(each) for each in plugins}
    require_same(told, gather, "install the same packages on every machine", ExitCode.PLUGIN)


def require_same(mine: Mapping[str, Any], gather: Gather, fix: str, exit_code: ExitCode = ExitCode.USAGE) -> None:
    """Raises `ProblemError` on every rank with each value that differs between some rank and rank 0.

    Only digests are exchanged, unless they differ.
    """
    digest = hashlib.sha256(json.dumps(mine, sort_keys=True, default=str).encode()).hexdigest()
    if len(set(gather(digest))) == 1:
        return
    first, *others = gather(dict(mine))
    raise ProblemError(
        [
            Problem("ranks-differ", f"{name}: {_has(theirs, name)}, rank 0 {_has(first, name)}", f"rank {rank}", fix)
            for rank, theirs in enumerate(others, 1)
            for name in sorted({*first, *theirs})
            if theirs.get(name) != first.get(name)
        ],
        exit_code,
    )


def _require_one_engine(engine: Engine, name: str) -> None:
    """Processes that torchrun started together but that use a one-process engine would all train the same run."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != engine.ranks:
        what = f"{started} processes were started, but engine '{name}' uses {engine.ranks}"
        fix = "use an engine for several ranks (train.engine=ddp), or start one process"
        raise ProblemError(Problem("wrong-ranks", what, "train.engine", fix))


def _has(values: Mapping[str, Any], name: str) -> str:
    return f"has {values[name]}" if name in values else "does not have it"


def _told(component: Locked) -> str:
    return f"{component['version']}, contract {component['contract']}, hash {component['hash'][:12]}"


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every value of a config by its dotted path."""
    if not isinstance(value, (dict, list)) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for name, item in items for key, leaf in _leaves(item, f"{path}.{name}".lstrip(".")).items()}
