"""The header of an artifact: what it may say, checked against the size of its file before anything is allocated."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from penstock.hooks.json_text import parse_strict_json
from penstock.quant158.artifact.coding import LZMA, MOST_TIMES
from penstock.quant158.artifact.formats import Layout, layouts_of
from penstock.quant158.stored import Shape

MAGIC = b"PENSTOCK"
VERSION = 1
CODED_VERSION = 2
"""Of a file with a part that is entropy-coded, so that programs that cannot decode it say so."""
ALIGNMENT = 64
LARGEST_HEADER = 64 << 20
# Sizes, offsets and counts end here, as in a program that reads them as signed numbers of 64 bits. JSON has no end: a
# product of numbers with thousands of digits cannot even be printed.
LARGEST_COUNT = 2**63 - 1
SHA256_DIGITS = 64
SHA256 = re.compile(rf"[0-9a-f]{{{SHA256_DIGITS}}}")

# A value of JSON takes up to about this many bytes in Python, and a header of brackets would take a hundred times its
# size: as many values as its file could hold are read, or those of a small file.
_BYTES_A_VALUE = 128
_ALWAYS_READ = 16 << 20

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEYS = ("penstock", "run", "checkpoint", "architecture", "decoder", "tensors", "aliases", "files")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of the file. `offset` counts from the first part. `coding` is `lzma`, or None for the array as it is; size
    and hash are those of what is stored."""

    offset: int
    bytes: int
    sha256: str
    coding: str | None = None

    @property
    def end(self) -> int:
        return self.offset + self.bytes

    def to_json(self) -> list[Any]:
        stored = [self.offset, self.bytes, self.sha256]
        return stored if self.coding is None else [*stored, self.coding]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of the file: its format, the shape of its weight, and its arrays."""

    format: str
    shape: Shape
    parts: Mapping[str, Part]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts.values())

    def to_json(self) -> dict[str, Any]:
        parts = {name: part.to_json() for name, part in self.parts.items()}
        return {"format": self.format, "shape": list(self.shape), "parts": parts}


@dataclass(frozen=True, slots=True)
class Identity:
    """The checkpoint that the weights are of: `sha256` is that of its manifest, which has the hash of every file."""

    step: int
    tokens: int | None
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "tokens": self.tokens, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Header:
    """`penstock` is the version that wrote the file, `run` the resolved config of the run, `architecture` the id of the
    component that builds the model, `decoder` what decoding without torch needs to know."""

    penstock: str
    run: Mapping[str, Any]
    checkpoint: Identity
    architecture: str
    decoder: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    aliases: Mapping[str, str]
    files: Mapping[str, Part]

    @property
    def version(self) -> int:
        return VERSION if all(part.coding is None for _, part in self.parts()) else CODED_VERSION

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Every part with its place in words."""
        for name, tensor in self.tensors.items():
            yield from ((f"{array} of tensor '{name}'", part) for array, part in tensor.parts.items())
        yield from ((f"file '{name}'", part) for name, part in self.files.items())

    def to_json(self) -> dict[str, Any]:
        return {
            "penstock": self.penstock,
            "run": dict(self.run),
            "checkpoint": self.checkpoint.to_json(),
            "architecture": self.architecture,
            "decoder": dict(self.decoder),
            "tensors": {name: tensor.to_json() for name, tensor in self.tensors.items()},
            "aliases": dict(self.aliases),
            "files": {name: part.to_json() for name, part in self.files.items()},
        }


class BadHeaderError(ValueError):
    """What is wrong with a header, and in which part of it."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


def aligned(offset: int) -> int:
    """The next multiple of 64.

    >>> aligned(64), aligned(65)
    (64, 128)
    """
    return -(-offset // ALIGNMENT) * ALIGNMENT


def parse_header(text: bytes, file_bytes: int, version: int) -> Header:
    """The header of a file of `file_bytes` and this version; raises `BadHeaderError`."""
    values = sum(map(text.count, (b",", b"[", b"{", b":")))
    if values * _BYTES_A_VALUE > max(file_bytes, _ALWAYS_READ):
        raise BadHeaderError("header", f"{values} values are more than a file of {file_bytes} bytes needs")
    try:
        value = parse_strict_json(text)
    except ValueError as error:
        raise BadHeaderError("header", f"not valid JSON ({error})") from None
    given = _object(value, "header")
    if missing := [name for name in _KEYS if name not in given]:
        raise BadHeaderError("header", f"{', '.join(missing)} not found")
    if unknown := [name for name in given if name not in _KEYS]:
        raise BadHeaderError("header", f"unknown {', '.join(map(repr, unknown[:5]))}")
    tensors = {
        _name(name, "tensors"): _tensor(each, f"tensor '{name}'")
        for name, each in _object(given["tensors"], "tensors").items()
    }
    header = Header(
        penstock=_text(given["penstock"], "penstock"),
        run=_object(given["run"], "run"),
        checkpoint=_identity(given["checkpoint"]),
        architecture=_text(given["architecture"], "architecture"),
        decoder=_object(given["decoder"], "decoder"),
        tensors=tensors,
        aliases=_aliases(given["aliases"], tensors),
        files={
            _file_name(name): _part(each, f"file '{name}'") for name, each in _object(given["files"], "files").items()
        },
    )
    if header.version != version:
        raise BadHeaderError("header", f"version {version}, but its parts are those of version {header.version}")
    return header


def check_places(header: Header, room: int) -> None:
    """Raises `BadHeaderError` if the parts do not fill `room` bytes one after the other, each from a multiple of 64 on:
    none beyond the end, no two on the same bytes, and no byte of no part but the padding."""
    for place, part in header.parts():
        if part.end > room:
            raise BadHeaderError(place, f"ends at byte {part.end} of {room}")
    end = 0
    for place, part in sorted(header.parts(), key=lambda each: (each[1].offset, each[1].bytes)):
        if part.offset < end:
            raise BadHeaderError(place, f"starts at byte {part.offset}, inside the part before it")
        if part.offset != aligned(end):
            raise BadHeaderError(place, f"starts at byte {part.offset} instead of {aligned(end)}")
        end = part.end
    if end != room:
        raise BadHeaderError("end of the file", f"{room - end} bytes after the last part")


def _tensor(value: Any, where: str) -> TensorEntry:
    given = _object(value, where)
    if given.keys() != {"format", "shape", "parts"}:
        raise BadHeaderError(where, "needs format, shape and parts, and nothing else")
    format, shape = _text(given["format"], where), _shape(given["shape"], where)
    try:
        layouts = layouts_of(format, shape)
    except ValueError as error:
        raise BadHeaderError(where, str(error)) from None
    parts = {
        name: _part(each, f"{name} of {where}", may_be_coded=True)
        for name, each in _object(given["parts"], where).items()
    }
    if parts.keys() != layouts.keys():
        raise BadHeaderError(where, f"format '{format}' needs the parts {' and '.join(layouts)}")
    for name, layout in layouts.items():
        _check_bytes(parts[name], layout, f"{name} of {where}", f"shape {list(shape)} takes {layout.bytes}", format)
    return TensorEntry(format, shape, {name: parts[name] for name in layouts})


def _check_bytes(part: Part, layout: Layout, where: str, takes: str, format: str) -> None:
    if part.coding is None and part.bytes != layout.bytes:
        raise BadHeaderError(where, f"{part.bytes} bytes, but {takes} in format '{format}'")
    if part.coding is not None and not part.bytes < layout.bytes <= MOST_TIMES * part.bytes:
        what = f"{part.bytes} coded bytes, but {takes}: not more, or more than {MOST_TIMES} times as many"
        raise BadHeaderError(where, what)


def _shape(value: Any, where: str) -> Shape:
    if not isinstance(value, list) or not 1 <= len(cast("list[Any]", value)) <= 8:
        raise BadHeaderError(where, "shape is not a list of one to eight sizes")
    sizes = cast("list[Any]", value)
    if not all(_is_count(size, least=1) for size in sizes):
        what = f"shape {reprlib.repr(sizes)} has a size that is not a whole number above 0, below 2^63"
        raise BadHeaderError(where, what)
    return tuple(sizes)


def _part(value: Any, where: str, *, may_be_coded: bool = False) -> Part:
    length = len(cast("list[Any]", value)) if isinstance(value, list) else 0
    if length != 3 and not (may_be_coded and length == 4):
        raise BadHeaderError(where, "expected [offset, bytes, SHA-256]")
    offset, count, digest, *coding = cast("list[Any]", value)
    if coding not in ([], [LZMA]):
        raise BadHeaderError(where, f"unknown coding {reprlib.repr(coding[0])}; known: {LZMA}")
    if not all(_is_count(each) for each in (offset, count)):
        raise BadHeaderError(where, "offset and bytes must be whole numbers from 0 on, below 2^63")
    if not isinstance(digest, str) or not SHA256.fullmatch(digest):
        raise BadHeaderError(where, "the SHA-256 is not 64 hex digits")
    return Part(offset, count, digest, *coding)


def _aliases(value: Any, tensors: Mapping[str, TensorEntry]) -> dict[str, str]:
    """An alias stands for a stored tensor, never for another alias, so there are no circles."""
    aliases = _object(value, "aliases")
    for alias, name in aliases.items():
        where = f"alias '{_name(alias, 'aliases')}'"
        if alias in tensors:
            raise BadHeaderError(where, "is the name of a tensor too")
        if not isinstance(name, str) or name not in tensors:
            kind = "another alias" if isinstance(name, str) and name in aliases else "no tensor"
            raise BadHeaderError(where, f"stands for {reprlib.repr(name)}, which is {kind}")
    return aliases


def _identity(value: Any) -> Identity:
    given = _object(value, "checkpoint")
    step, tokens, digest = (given.get(name) for name in ("step", "tokens", "sha256"))
    counts = [step] if tokens is None else [step, tokens]
    if given.keys() != {"step", "tokens", "sha256"} or not all(_is_count(each) for each in counts):
        raise BadHeaderError("checkpoint", "needs step, tokens and sha256, and nothing else")
    if not isinstance(digest, str) or not SHA256.fullmatch(digest):
        raise BadHeaderError("checkpoint", "the SHA-256 is not 64 hex digits")
    return Identity(cast(int, step), tokens, digest)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= LARGEST_COUNT


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadHeaderError(where, f"expected an object, not {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadHeaderError(where, "expected a text")
    return value


def _name(name: str, where: str) -> str:
    if not name or not name.isprintable():
        raise BadHeaderError(where, f"{name!r} is not a name")
    return name


def _file_name(name: str) -> str:
    """A name that stays in the folder that it is written to."""
    if not _FILE_NAME.fullmatch(name):
        raise BadHeaderError("files", f"{name!r} is not a plain file name")
    return name
