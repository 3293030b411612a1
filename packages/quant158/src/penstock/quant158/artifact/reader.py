"""Opens artifacts by memory map: the header is checked whole, parts are read and hashed on demand."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.quant158.artifact.coding import decoded
from penstock.quant158.artifact.formats import Layout, fault_of, layouts_of, weight_of
from penstock.quant158.artifact.header import (
    CODED_VERSION,
    LARGEST_HEADER,
    MAGIC,
    VERSION,
    BadHeaderError,
    Header,
    Part,
    TensorEntry,
    aligned,
    check_places,
    parse_header,
)

PREFIX = struct.Struct("<8sII32s")  # magic, version, bytes of the header, SHA-256 of the header
_HASHED_AT_ONCE = 64 << 20


SUFFIX = ".penstock"


def is_artifact(path: Path) -> bool:
    """Whether a path means an artifact: a name that ends so, whatever the file holds, or a file that begins so."""
    return (path.suffix == SUFFIX and not path.is_dir()) or begins_like_artifact(path)


def begins_like_artifact(path: Path) -> bool:
    """Whether a file is an artifact of whichever version, as far as its first bytes say."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class Artifact:
    """An open artifact. Arrays are read-only views of the file, valid as long as they are referenced; those that are
    entropy-coded are decoded each time.

    `tensors` are the names that are stored, `names` those and the aliases. Every method that reads raises
    `ProblemError` with the file and its part. `digest` is the SHA-256 of the header, and thereby of everything.
    """

    def __init__(self, path: Path, header: Header, header_bytes: int, digest: str, content: mmap.mmap) -> None:
        self.path = path
        self.header = header
        self.header_bytes = header_bytes
        self.digest = digest
        self._content = content
        self._start = aligned(PREFIX.size + header_bytes)

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Opens a file whose header is sound; raises `ProblemError` for any other. `verify` checks the parts."""
        try:
            with path.open("rb") as file:
                return cls._opened(path, file)
        except BadHeaderError as error:
            raise damaged(path, error.where, error.what) from None
        except OSError as error:
            what, fix = f"the artifact cannot be read ({error.strerror})", "check the path and its permissions"
            raise ProblemError(Problem("unreadable-file", what, str(path), fix)) from error

    @classmethod
    def _opened(cls, path: Path, file: BinaryIO) -> Artifact:
        size = os.fstat(file.fileno()).st_size
        version, length, digest = _prefix(path, file.read(PREFIX.size), size)
        text = file.read(length)
        if hashlib.sha256(text).digest() != digest:
            raise BadHeaderError("header", "its SHA-256 is not the one before it")
        header = parse_header(text, size, version)
        check_places(header, size - aligned(PREFIX.size + length))
        artifact = cls(path, header, length, digest.hex(), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        artifact._check_padding()
        return artifact

    @property
    def file_bytes(self) -> int:
        return len(self._content)

    def _check_padding(self) -> None:
        """What lies between header and parts is zero: a byte that no hash covers must say nothing."""
        ends = [part.end + self._start for _, part in self.header.parts()]
        for each in (PREFIX.size + self.header_bytes, *ends):
            until = min(aligned(each), len(self._content))
            if any(self._content[each:until]):
                raise BadHeaderError(f"byte {each}", "the padding is not zero")

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.header.tensors, *self.header.aliases)

    def tensor(self, name: str) -> TensorEntry:
        """What the header says of a tensor or an alias."""
        stored = self.header.tensors.get(self.header.aliases.get(name, name))
        if stored is None:
            what = f"the artifact has no tensor '{name}'"
            raise ProblemError(Problem("bad-artifact", what, str(self.path), did_you_mean(name, self.names)))
        return stored

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The stored arrays of a tensor: codes and scales, or values. Raises `ProblemError` for numbers that are not
        finite, and for scales and codes that the format does not have."""
        stored = self.tensor(name)
        arrays = {
            array: self._array(stored.parts[array], layout, f"{array} of tensor '{name}'")
            for array, layout in layouts_of(stored.format, stored.shape).items()
        }
        if fault := fault_of(stored.format, arrays):
            raise damaged(self.path, f"tensor '{name}'", fault)
        return arrays

    def _array(self, part: Part, layout: Layout, place: str) -> NDArray[Any]:
        data: Any = self._view(part)
        if part.coding is not None:
            try:
                data = decoded(data, layout.dtype.itemsize, layout.bytes)
            except ValueError as error:
                raise damaged(self.path, place, str(error)) from None
        return np.frombuffer(data, layout.dtype).reshape(layout.shape)

    def weight(self, name: str) -> NDArray[np.float32]:
        """The weight of the training-time forward pass, bit for bit."""
        stored, arrays = self.tensor(name), self.arrays(name)
        try:
            return weight_of(stored.format, arrays, stored.shape)
        except ProblemError as error:
            raise damaged(self.path, f"tensor '{name}'", error.problems[0].what) from error

    def file(self, name: str) -> bytes:
        """The content of an enclosed file."""
        if name not in self.header.files:
            known = ", ".join(self.header.files) or "none"
            raise ProblemError(
                Problem("bad-artifact", f"no enclosed file '{name}'; there are: {known}", str(self.path))
            )
        return bytes(self._view(self.header.files[name]))

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compares every part with its SHA-256; `progress` receives the bytes done and in total."""
        total = sum(part.bytes for _, part in self.header.parts())
        done = 0
        for place, part in self.header.parts():
            digest = hashlib.sha256()
            for piece in _pieces(self._view(part)):
                digest.update(piece)
                done += len(piece)
                if progress:
                    progress(done, total)
            if digest.hexdigest() != part.sha256:
                raise damaged(self.path, place, "its SHA-256 is not the one in the header")

    def _view(self, part: Part) -> memoryview:
        return memoryview(self._content)[self._start + part.offset : self._start + part.end]

    def close(self) -> None:
        """Unmaps the file; the arrays that were handed out must be gone."""
        self._content.close()

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def damaged(path: Path, part: str, what: str) -> ProblemError:
    """A problem of the file, with the part that it is in."""
    return ProblemError(Problem("damaged-file", what, f"{path}: {part}", "copy or export it again"))


def _prefix(path: Path, first: bytes, size: int) -> tuple[int, int, bytes]:
    """Version of the file, and bytes and SHA-256 of its header."""
    if first[: len(MAGIC)] != MAGIC:
        fix = "make one with `penstock export RUN --format penstock`"
        raise ProblemError(Problem("not-an-artifact", "not an artifact of Penstock", str(path), fix))
    if len(first) < PREFIX.size:
        raise BadHeaderError("header", f"the file ends after {size} bytes")
    _, version, length, digest = PREFIX.unpack(first)
    if version not in (VERSION, CODED_VERSION):
        what = f"artifact of version {version}, but this Penstock reads versions {VERSION} and {CODED_VERSION}"
        fix = "upgrade penstock-quant158 to read it" if version > CODED_VERSION else "export the run again"
        raise ProblemError(Problem("other-version", what, str(path), fix))
    if length > LARGEST_HEADER:
        raise BadHeaderError("header", f"says that it has {length} bytes; the most is {LARGEST_HEADER}")
    if PREFIX.size + length > size:
        raise BadHeaderError("header", f"says that it has {length} bytes, but the file ends after {size}")
    return version, length, digest


def _pieces(view: memoryview) -> Iterator[memoryview]:
    return (view[start : start + _HASHED_AT_ONCE] for start in range(0, len(view), _HASHED_AT_ONCE))
