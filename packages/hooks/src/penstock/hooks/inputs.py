"""Settings that name what is read: `path: InputPath | None`, or `paths: tuple[InputPattern, ...]` with globs.
`OutputPath` names what is written.

A schema does not ask whether the file is there, because a config may be checked on a machine without the data:
`config validate` says what it does not find, and `train --dry-run` refuses it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast, get_args

from penstock.hooks.document import Location, dotted
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.hooks.schema import Schema


class Input(Enum):
    """The mark of a setting that is read: a file or folder, or one of these or a glob."""

    PATH = "path"
    PATTERN = "pattern"


class Output(Enum):
    """The mark of a setting that is written to: it need not be there."""

    PATH = "path"


InputPath: TypeAlias = Annotated[Path, Input.PATH]
InputPattern: TypeAlias = Annotated[str, Input.PATTERN]
OutputPath: TypeAlias = Annotated[Path, Output.PATH]


def inputs_of(value: object, at: Location = ()) -> Iterator[tuple[Location, str]]:
    """Each path that validated settings name to be read, in the components below them too, and where it stands."""
    if isinstance(value, Choice):
        yield from inputs_of(value.settings, at)
    elif isinstance(value, Schema):
        for name, field in type(value).model_fields.items():
            inner: object = getattr(value, name)
            if _is_input((field.annotation, *field.metadata)):
                yield from ((place, str(path)) for place, path in _leaves(inner, (*at, name)))
            else:
                yield from inputs_of(inner, (*at, name))
    elif isinstance(value, (list, tuple, dict)):
        for place, inner in _items(value, at):
            yield from inputs_of(inner, place)


def missing_inputs(value: object) -> Iterator[tuple[Location, Problem]]:
    """A problem for each path that is not there, with the location of its setting, whose dotted path is its `where`."""
    for at, path in inputs_of(value):
        try:
            found = _exists(expanded(path))
        except ProblemError:
            found = False
        if not found:
            fix = "" if os.path.isabs(path) else f"relative paths start at {Path.cwd()}"
            yield at, Problem("missing-file", f"file or folder not found: {path}", dotted(at), fix)


def expanded(path: str | Path) -> Path:
    """The path with the user's home folder for `~`; raises `ProblemError` for `~name` of an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        what = f"file or folder not found ({error})"
        raise ProblemError(Problem("missing-file", what, str(path), "write the path in full")) from None


def _exists(path: Path) -> bool:
    """Whether a file or folder, or something that matches a glob, is there."""
    return os.path.exists(path) or (glob.has_magic(str(path)) and next(glob.iglob(str(path), recursive=True), "") != "")


def _is_input(annotation: object) -> bool:
    """Whether the mark is anywhere in an annotation: in a union, in the items of a list."""
    parts = cast("tuple[object, ...]", annotation) if isinstance(annotation, tuple) else get_args(annotation)
    return isinstance(annotation, Input) or any(_is_input(part) for part in parts)


def _leaves(value: object, at: Location) -> Iterator[tuple[Location, object]]:
    if isinstance(value, (list, tuple, dict)):
        for place, inner in _items(value, at):
            yield from _leaves(inner, place)
    elif value is not None:
        yield at, value


def _items(value: Any, at: Location) -> Iterator[tuple[Location, Any]]:
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value)
        yield from (((*at, key), inner) for key, inner in value.items())
    else:
        yield from (((*at, number), inner) for number, inner in enumerate(value))
