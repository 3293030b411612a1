"""Control groups: limits on all processes of a program together, where this process may make groups.

In version 1 of cgroups each controller has a tree of its own, and a new group lies below that of this process. Version
2 has one tree, and a new group lies below that of this process, or beside it. Only programs join the group, never the
sandbox's own processes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from penstock.sandbox.verdict import Limits

PREFIX = "penstock-sandbox-"
_LIMITS = {
    "memory": ("memory.max", "memory.limit_in_bytes"),
    "pids": ("pids.max", "pids.max"),
}
"""The file of each controller's limit in version 2 and 1."""
_NUMBER = itertools.count()


def make_groups(limits: Limits) -> list[Path]:
    """New groups that limit memory and processes; fewer, or none, where they cannot be made."""
    name = f"{PREFIX}{os.getpid()}-{next(_NUMBER)}"
    values = {"memory": str(limits.memory + limits.files), "pids": str(limits.processes)}
    made: list[Path] = []
    limited: set[str] = set()
    for parent, controllers, number in _places():
        wanted = {controller: values[controller] for controller in controllers if controller in values.keys() - limited}
        if wanted and _make(parent / name, {_LIMITS[each][number]: value for each, value in wanted.items()}):
            made.append(parent / name)
            limited |= wanted.keys()
    return made


def remove_groups(groups: list[Path]) -> None:
    """Their processes have ended. A group that the kernel still holds is left."""
    for group in groups:
        with contextlib.suppress(OSError):
            group.rmdir()


def remove_left_groups() -> None:
    """Those of processes that were killed before they could remove them."""
    for parent, _, _ in _places():
        for group in parent.glob(f"{PREFIX}*-*"):
            owner = group.name.removeprefix(PREFIX).split("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                remove_groups([group])


def _make(group: Path, limits: dict[str, str]) -> bool:
    """Whether the group was made with all of the limits."""
    try:
        group.mkdir()
    except OSError:
        return False
    try:
        for file, value in limits.items():
            with (group / file).open("r+") as opened:  # not "w", which would make the file where it does not exist
                opened.write(value)
    except OSError:
        remove_groups([group])
        return False
    return True


def _places() -> Iterator[tuple[Path, frozenset[str], int]]:
    """Where groups may lie, the controllers there, and the place of their files in `_LIMITS`."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in own:
        if controllers:
            for mount in _mounts(mounts, "cgroup", set(controllers.split(","))):
                yield mount / path.lstrip("/"), frozenset(controllers.split(",")), 1
        else:
            for mount in _mounts(mounts, "cgroup2", set()):
                group = mount / path.lstrip("/")
                for parent in dict.fromkeys((group, group.parent if group != mount else group)):
                    yield parent, frozenset(_LIMITS), 0


def _mounts(mounts: list[list[str]], kind: str, controllers: set[str]) -> Iterator[Path]:
    """The mount points of a hierarchy. A line of mountinfo ends with ` - KIND SOURCE OPTIONS`."""
    for fields in mounts:
        end = fields.index("-")
        if fields[end + 1] == kind and controllers <= set(fields[-1].split(",")):
            yield Path(fields[4])
