"""What the processes of a distributed run agree on before they begin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run.plugin_lock import Locked


def require_same_plugins(plugins: Sequence[Locked]) -> None:
    """Raises `ProblemError` on every rank, with exit code 3, where some rank has other components, or other code of
    them, than rank 0: their gradients would be averaged all the same. Without `torch.distributed` there is one rank.

    Only digests are exchanged, unless they differ.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    if len(set(_gathered(hashlib.sha256(json.dumps(plugins, sort_keys=True).encode()).hexdigest()))) == 1:
        return
    first, *others = _gathered({f"{each['kind']} {each['distribution']}:{each['name']}": each for each in plugins})
    fix = "install the same packages on every machine"
    raise ProblemError(
        [
            Problem("ranks-differ", f"{name}: {_told(theirs.get(name))}, rank 0 {_told(first.get(name))}", where, fix)
            for rank, theirs in enumerate(others, 1)
            for where in [f"rank {rank}"]
            for name in sorted({*first, *theirs})
            if theirs.get(name) != first.get(name)
        ],
        ExitCode.PLUGIN,
    )


def _told(component: Locked | None) -> str:
    if component is None:
        return "does not have it"
    return f"has {component['version']}, contract {component['contract']}, hash {component['hash'][:12]}"


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
