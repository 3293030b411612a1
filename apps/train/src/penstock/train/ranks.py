"""What the processes of a distributed run agree on before they begin."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from penstock.hooks.contracts import Engine
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run.config import RunConfig, TrainSettings
from penstock.run.plugin_lock import Locked
from penstock.train.compose import pick_device
from penstock.train.group import is_echo
from penstock.train.rendezvous import started_by_launcher

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]  # `Engine.gather`


@contextmanager
def joined(config: RunConfig) -> Iterator[Engine]:
    """The config's engine, joined by all ranks with the same config and the same versions; it is closed at the end, and
    the other ranks learn of an error. Rank 0 alone says what the user has to know: it raises the same, or hears of it.
    Only that rank 0 is gone, another has to say."""
    choice = config.train.engine
    started, number = started_by_launcher()
    engine: Engine = choice.build(device=pick_device(config.train.device))
    try:
        _require_all_in(engine, choice.entry.component.name, started, number)
        require_same(_leaves(config.resolved()), engine.gather, "give all ranks the same config")
        versions = {"Python": platform.python_version(), "torch": torch.__version__}
        require_same(versions, engine.gather, "install the same versions on every machine")
        micro_batches(config.train, engine.ranks)
        yield engine
    except BaseException as error:
        engine.close(error)
        if engine.rank and isinstance(error, (ProblemError, KeyboardInterrupt)) and not is_echo(error):
            code = error.exit_code if isinstance(error, ProblemError) else ExitCode.INTERRUPTED
            raise ProblemError([], code) from None
        raise
    engine.close()


def require_on_all(check: Callable[[], object], gather: Gather) -> None:
    """Raises on every rank what the check raises on any; where ranks find different problems, these name the rank."""
    try:
        check()
        mine: ProblemError | None = None
    except ProblemError as error:
        mine = error
    found = gather(None if mine is None else (mine.problems, mine.exit_code))
    wrong = [each for each in found if each is not None]
    if not wrong:
        return
    if all(each == found[0] for each in found):
        raise ProblemError(*wrong[0]) from mine
    named = [
        Problem(each.code, each.what, f"rank {rank}: {each.where}".removesuffix(": "), each.fix)
        for rank, told in enumerate(found)
        if told is not None
        for each in told[0]
    ]
    raise ProblemError(named, max(code for _, code in wrong)) from mine


def done_on_all(call: Callable[[], T], gather: Gather) -> T:
    """What a call returns; raises on every rank the `ProblemError` that it raises on any."""
    returned: list[T] = []
    require_on_all(lambda: returned.append(call()), gather)
    return returned[0]


def micro_batches(train: TrainSettings, ranks: int) -> int:
    """Forward passes of each rank in a step; raises `ProblemError` if the batch does not divide evenly."""
    size = train.micro_batch_size or train.batch_size // ranks
    if size == 0 or train.batch_size % (ranks * size):
        each = f" in micro-batches of {size}" if train.micro_batch_size else ""
        what = f"a batch of {train.batch_size} sequences cannot be split over {ranks} ranks{each}"
        fix = f"use a multiple of {ranks * max(size, 1)}, or change the number of processes"
        raise ProblemError(Problem("indivisible-batch", what, "train.batch_size", fix))
    return train.batch_size // (ranks * size)


def require_one_process(train: TrainSettings) -> None:
    """For a command that goes on with the trained model itself. Raises `ProblemError` if several processes were started
    for it, and if the engine waits for others."""
    started, number = started_by_launcher()
    component = train.engine.entry.component
    if started > 1:
        what, fix = f"{started} processes were started for a command that is one", "start one process"
    elif "several-ranks" in component.capabilities and "RANK" not in os.environ:
        what = f"the command trains in one process, but engine '{component.name}' is for several"
        fix = "use train.engine=local"
    else:
        return
    fix = f"{fix}, or train on several ranks with `penstock train --ranks N`"
    raise ProblemError([] if number else [Problem("wrong-ranks", what, "train.engine", fix)])


def require_same_plugins(plugins: Sequence[Locked], gather: Gather) -> None:
    """Raises `ProblemError` on every rank, with exit code 3, if some rank has other components or other component code
    than rank 0: their gradients would be summed all the same."""
    told = {f"{each['kind']} {each['distribution']}:{each['name']}": _told(each) for each in plugins}
    require_same(told, gather, "install the same packages on every machine", ExitCode.PLUGIN)


def require_same(mine: Mapping[str, Any], gather: Gather, fix: str, exit_code: ExitCode = ExitCode.USAGE) -> None:
    """Raises `ProblemError` with each value that differs between some rank and rank 0.

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


def _require_all_in(engine: Engine, name: str, started: int, number: int) -> None:
    """Processes that a launcher started together but that use a one-process engine would all train the same run."""
    if started != engine.ranks:
        what = f"{started} processes were started, but engine '{name}' uses {engine.ranks}"
        fix = "use an engine for several ranks (train.engine=ddp), or start one process"
        raise ProblemError([] if number else [Problem("wrong-ranks", what, "train.engine", fix)])


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
