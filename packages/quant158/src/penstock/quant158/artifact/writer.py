"""Writes artifacts, one tensor at a time: whole or not at all, whatever stops the writer.

Formats and shapes fix the size of every part, so places are known before any weight is packed. The header is written
last, over the room that was left for it, because it holds the hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.atomic import replacing
from penstock.hooks.problems import failed
from penstock.quant158.artifact.formats import layouts_of
from penstock.quant158.artifact.header import (
    LARGEST_HEADER,
    MAGIC,
    VERSION,
    Header,
    Identity,
    Part,
    TensorEntry,
    aligned,
)
from penstock.quant158.artifact.reader import PREFIX
from penstock.quant158.stored import Shape

_UNKNOWN = "0" * 64
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
    progress: Progress | None = None,
) -> Header:
    """Writes `path`, and the folders above it, and returns its header; after an error, which it lets pass, `path` is
    what it was before. Raises `ProblemError` if the file system refuses. `progress` receives the bytes done and in
    total."""
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
            return _write(file, header, tensors, files, progress)
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
    progress: Progress | None,
) -> Header:
    room = len(_encoded(header))
    if room > LARGEST_HEADER:
        raise failed("cannot-write", f"a header of {room} bytes; the most is {LARGEST_HEADER}", file.name)
    parts = _Parts(file, aligned(PREFIX.size + room), sum(part.bytes for _, part in header.parts()), progress)
    stored = {each.name: _written(each, header.tensors[each.name], parts) for each in tensors}
    texts = {name: parts.write(header.files[name], content) for name, content in files.items()}
    file.truncate(parts.start + max((part.end for _, part in header.parts()), default=0))
    whole = replace(header, tensors=stored, files=texts)
    text = _encoded(whole)
    assert len(text) == room  # a hash has as many digits as the zeros in its place
    file.seek(0)
    file.write(PREFIX.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest()) + text)
    return whole


def _written(content: Content, planned: TensorEntry, parts: _Parts) -> TensorEntry:
    arrays, written = content.arrays(), dict[str, Part]()
    for name, layout in layouts_of(content.format, content.shape).items():
        array = np.ascontiguousarray(arrays[name])
        if array.dtype != layout.dtype or array.size * array.itemsize != layout.bytes:
            what = f"{content.name}: {name} is {array.dtype} {array.shape}, not {layout.dtype} {layout.shape}"
            raise ValueError(what)
        written[name] = parts.write(planned.parts[name], array.reshape(-1).view(np.uint8).data)
    return replace(planned, parts=written)


@dataclass(slots=True)
class _Parts:
    """The part of the file after the header."""

    file: IO[bytes]
    start: int
    total: int
    progress: Progress | None
    done: int = 0

    def write(self, planned: Part, content: bytes | memoryview) -> Part:
        """Writes a part to its place; a hole before it reads as zeros."""
        self.file.seek(self.start + planned.offset)
        self.file.write(content)
        self.done += planned.bytes
        if self.progress:
            self.progress(self.done, self.total)
        return replace(planned, sha256=hashlib.sha256(content).hexdigest())


def _encoded(header: Header) -> bytes:
    return json.dumps(header.to_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
