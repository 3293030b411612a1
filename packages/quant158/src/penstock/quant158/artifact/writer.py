"""Writes artifacts, one tensor at a time: whole or not at all, whatever stops the writer.

Formats and shapes fix the size of every part, so places are known before any weight is packed. The header is written
last, over the room that was left for it, because it holds the hashes. With entropy coding parts are smaller than that:
each begins after the one before it, and all of them move up to the header at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.atomic import replacing
from penstock.hooks.problems import failed
from penstock.quant158.artifact.coding import LZMA, encoded
from penstock.quant158.artifact.formats import layouts_of
from penstock.quant158.artifact.header import (
    LARGEST_HEADER,
    MAGIC,
    Header,
    Identity,
    Part,
    TensorEntry,
    aligned,
)
from penstock.quant158.artifact.reader import PREFIX
from penstock.quant158.stored import Shape

_UNKNOWN = "0" * 64
_MOVED_AT_ONCE = 16 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Content:
    """A tensor to write. `arrays` is called when its turn comes, so one is in memory at a time."""

    name: str
    format: str
    shape: Shape
    arrays: Callable[[], Mapping[str, NDArray[Any]]]


def write_artifact(
    path: Path,
    tensors: Sequence[Content],
    *,
    penstock: str,
    run: Mapping[str, Any],
    checkpoint: Identity,
    architecture: str,
    decoder: Mapping[str, Any],
    aliases: Mapping[str, str],
    files: Mapping[str, bytes],
    compress: Literal["lzma"] | None = None,
    progress: Progress | None = None,
) -> Header:
    """Writes `path`, and the folders above it, and returns its header; after an error, which it lets pass, `path` is
    what it was before. `compress` stores arrays entropy-coded where that is smaller. Raises `ProblemError` if the file
    system refuses. `progress` receives the bytes done and in total."""
    planned, stored, texts = 0, dict[str, TensorEntry](), dict[str, Part]()
    for each in tensors:
        parts: dict[str, Part] = {}
        for array, layout in layouts_of(each.format, each.shape).items():
            parts[array] = Part(aligned(planned), layout.bytes, _UNKNOWN)
            planned = parts[array].end
        stored[each.name] = TensorEntry(each.format, each.shape, parts)
    for name, content in files.items():
        texts[name] = Part(aligned(planned), len(content), _UNKNOWN)
        planned = texts[name].end
    header = Header(penstock, run, checkpoint, architecture, decoder, stored, aliases, texts)
    try:
        with _folders_of(path), replacing(path) as file:
            return _write(file, header, tensors, files, compress, progress)
    except OSError as error:
        what = f"the artifact cannot be written ({error.strerror})"
        raise failed("cannot-write", what, str(path), "free space, or choose another place") from error


@contextmanager
def _folders_of(path: Path) -> Generator[None]:
    """Makes the folders above a path; after an error those that were missing are missing again."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another program wrote to one of them
            for folder in missing:
                folder.rmdir()
        raise


def _write(
    file: IO[bytes],
    header: Header,
    tensors: Sequence[Content],
    files: Mapping[str, bytes],
    compress: str | None,
    progress: Progress | None,
) -> Header:
    room = len(_encoded(_longest(header) if compress else header))
    if room > LARGEST_HEADER:
        raise failed("cannot-write", f"a header of {room} bytes; the most is {LARGEST_HEADER}", file.name)
    total = sum(part.bytes for _, part in header.parts())
    parts = _Parts(file, aligned(PREFIX.size + room), total, compress is not None, progress)
    stored = {each.name: _written(each, parts) for each in tensors}
    texts = {name: parts.write(content) for name, content in files.items()}
    whole = replace(header, tensors=stored, files=texts)
    text = _encoded(whole)
    parts.begin_at(aligned(PREFIX.size + len(text)))
    file.seek(0)
    prefix = PREFIX.pack(MAGIC, whole.version, len(text), hashlib.sha256(text).digest())
    file.write((prefix + text).ljust(parts.start, b"\0"))
    return whole


def _longest(header: Header) -> Header:
    """With every part coded, and as large as it can be."""
    tensors = {
        name: replace(each, parts={array: replace(part, coding=LZMA) for array, part in each.parts.items()})
        for name, each in header.tensors.items()
    }
    return replace(header, tensors=tensors)


def _written(content: Content, parts: _Parts) -> TensorEntry:
    arrays, written = content.arrays(), dict[str, Part]()
    for name, layout in layouts_of(content.format, content.shape).items():
        array = np.ascontiguousarray(arrays[name])
        if array.dtype != layout.dtype or array.size * array.itemsize != layout.bytes:
            what = f"{content.name}: {name} is {array.dtype} {array.shape}, not {layout.dtype} {layout.shape}"
            raise ValueError(what)
        written[name] = parts.write(array.reshape(-1).view(np.uint8).data, layout.dtype.itemsize)
    return TensorEntry(content.format, content.shape, written)


@dataclass(slots=True)
class _Parts:
    """The part of the file after the header."""

    file: IO[bytes]
    start: int
    total: int
    coded: bool
    progress: Progress | None
    end: int = 0
    done: int = 0

    def write(self, content: bytes | memoryview, item: int | None = None) -> Part:
        """Writes a part behind the others; a hole before it reads as zeros. An array of numbers of `item` bytes may be
        coded."""
        coded = encoded(content, item) if self.coded and item else None
        stored, offset = content if coded is None else coded, aligned(self.end)
        self.file.seek(self.start + offset)
        self.file.write(stored)
        self.end = offset + len(stored)
        self.done += len(content)
        if self.progress:
            self.progress(self.done, self.total)
        return Part(offset, len(stored), hashlib.sha256(stored).hexdigest(), None if coded is None else LZMA)

    def begin_at(self, start: int) -> None:
        """Moves all parts towards the beginning of the file, and cuts off what is behind them."""
        if start < self.start:
            for at in range(0, self.end, _MOVED_AT_ONCE):
                self.file.seek(self.start + at)
                piece = self.file.read(min(_MOVED_AT_ONCE, self.end - at))
                self.file.seek(start + at)
                self.file.write(piece)
        self.start = start
        self.file.truncate(start + self.end)


def _encoded(header: Header) -> bytes:
    return json.dumps(header.to_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
