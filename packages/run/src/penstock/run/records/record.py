"""Writes values as JSON and reads them back: one way for all files of a run.

Reading is strict about types, because a figure of the wrong type would be shown as a wrong figure. It is tolerant about
keys, so that the runs of older and newer versions open: an unknown key is ignored, and a missing one takes its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from penstock.hooks.atomic import write_json
from penstock.hooks.problems import Problem, ProblemError

T = TypeVar("T")

ABSENT: Mapping[str, bool] = MappingProxyType({"absent": True})
"""Metadata of a field whose key is left out of the JSON while the value is None. Other fields write null."""


class Record:
    """The base of every value that a command writes or prints as JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return as_json(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "") -> Self:
        """The inverse of `to_json`. Raises `ProblemError` with `where` and the field if a type is wrong."""
        return parse_record(cls, json.dumps(value).encode(), where)


def as_json(value: Any) -> Any:
    """Dataclasses as objects, at any depth; JSON's own types are unchanged."""
    if is_dataclass(value) and not isinstance(value, type):
        values = ((each, getattr(value, each.name)) for each in fields(value))
        return {each.name: as_json(own) for each, own in values if own is not None or "absent" not in each.metadata}
    if isinstance(value, Mapping):
        return {key: as_json(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return value


def write_record(path: Path, value: Any) -> None:
    """Atomically replaces the file's content with the JSON of a record or of a container of records."""
    write_json(path, as_json(value))


def read_record(kind: type[T], path: Path) -> T | None:
    """Reads a record, or a container of records, from a file; returns None if the file does not exist.

    Raises `ProblemError` with the file, and with the field if its type is wrong.
    """
    try:
        return parse_record(kind, path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProblemError(Problem("unreadable-file", f"cannot be read ({error})", str(path))) from error


def parse_record(kind: type[T], text: bytes, where: str) -> T:
    """Like `read_record`, for the content of a file that is found at `where`."""
    from pydantic import ValidationError  # commands that only print start without it

    try:
        return _reader(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        place = ": ".join(filter(None, [where, name]))
        raise ProblemError(Problem("damaged-file", first["msg"], place, "write the file again")) from error


@cache  # milliseconds for each kind, and a sweep has thousands of files of few kinds
def _reader(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
