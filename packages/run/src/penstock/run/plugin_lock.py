"""The code of a run: every component that its config uses, with distribution, version, contract and a hash.

The lock is written with every run and every checkpoint, and compared wherever one is read. Nothing that the lock
names is imported to make it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.hooks.single_file import find_spec
from penstock.run.records.origin import LockedComponent

if TYPE_CHECKING:
    from penstock.run.config import RunConfig  # heavy, and a finished sweep hashes code without a config

LOCK = "plugins.lock.json"
Locked = dict[str, Any]


def plugin_lock(config: RunConfig) -> list[Locked]:
    """One entry for every component that the config uses, sorted."""
    return locked_components([getattr(config, name) for name in config.held()])


def locked_components(value: Any) -> list[Locked]:
    """One entry for every component that a config or a part of one names, sorted."""
    locked: dict[str, Locked] = {}
    for choice in choices(value):
        component, origin = choice.entry.component, choice.entry.origin
        locked[f"{component.kind}/{choice.entry.id}"] = LockedComponent(
            kind=component.kind,
            name=component.name,
            distribution=origin.distribution,
            version=origin.version,
            contract=component.contract,
            hash=content_hash(component.target),
        ).to_json()
    return [locked[key] for key in sorted(locked)]


def lock_changes(before: Iterable[Locked], now: Iterable[Locked]) -> list[str]:
    """One line for every component in both locks whose code has changed; an added or removed component is a change of
    the config."""
    locked = {_name(then): then for then in before}
    return [
        f"{name} {component['version']} is not the code of the run ({_difference(locked[name], component)})"
        for component in now
        if (name := _name(component)) in locked and locked[name] != component
    ]


def _name(component: Locked) -> str:
    return f"{component['kind']} {component['distribution']}:{component['name']}"


def _difference(before: Locked, now: Locked) -> str:
    told = [
        f"{field} was {before.get(field)}, is now {now.get(field)}"
        for field in ("version", "contract")
        if before.get(field) != now.get(field)
    ]
    if before.get("hash") != now.get("hash"):
        told.append(f"files changed: hash was {str(before.get('hash'))[:12]}, is now {now['hash'][:12]}")
    return ", ".join(told)


def choices(value: Any) -> Iterator[Choice]:
    """Every component that a config or a part of one names, including those nested in other components' settings."""
    if isinstance(value, Choice):
        yield value
        yield from choices(value.settings)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from choices(item)
    elif hasattr(type(value), "model_fields"):
        for name in type(value).model_fields:
            yield from choices(getattr(value, name))


def require_importable(*parts: Any) -> None:
    """Imports the target of every component in some parts of a config, so that broken code stops the command before
    minutes of work; raises one `ProblemError` for all of them."""
    problems: list[Problem] = []
    for entry in dict.fromkeys(choice.entry for part in parts for choice in choices(part)):
        try:
            entry.imported(entry.component.target)
        except ProblemError as error:
            problems += error.problems
    if problems:
        raise ProblemError(problems, ExitCode.PLUGIN)


def content_hash(target: str) -> str:
    """SHA-256 of the code that a target belongs to; empty if it has no files.

    The hash covers every `*.py` below the outermost package that is not a namespace (penstock/routers/**), each with
    its path, or the single file of a module outside any package.
    """
    file = _outermost(target.split(":")[0])
    if file is None or not file.is_file():
        return ""
    if file.name != "__init__.py":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(file.parent.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(file.parent).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _outermost(module: str) -> Path | None:
    """The file of the outermost parent package that has one, or of the module itself; imports none of them."""
    name, path = "", None
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        loaded = sys.modules.get(name)  # a plugin file is not on the import path
        spec = getattr(loaded, "__spec__", None) or find_spec(name, path)
        if spec is None:
            return None
        if spec.has_location and spec.origin:
            return Path(spec.origin)
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    return None
