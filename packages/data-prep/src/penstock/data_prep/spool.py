"""Documents stored on disk between the single pass over a corpus and the stages that read them again."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_LENGTH = struct.Struct("<Q")


class Spool:
    """Documents on disk, each preceded by its length; can be read any number of times."""

    def __init__(self, path: Path) -> None:
        self.documents = 0
        self.bytes = 0
        self._path = path
        self._file: BinaryIO = path.open("xb")

    def append(self, data: bytes) -> None:
        self._file.write(_LENGTH.pack(len(data)))
        self._file.write(data)
        self.documents += 1
        self.bytes += len(data)

    def flush(self) -> None:
        self._file.close()

    def remove(self) -> None:
        self._path.unlink()

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while header := file.read(_LENGTH.size):
                yield file.read(_LENGTH.unpack(header)[0])
