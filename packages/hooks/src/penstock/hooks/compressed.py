"""The one place that opens files which may be compressed: corpora, data sets of tasks, and routing traces.

The standard library's reader of several xz streams in one file (`cat a.xz b.xz`) ends in silence where the next stream
is damaged, which loses its text, and that of gzip raises `zlib.error`, which is no `OSError`. Here every byte of a file
belongs to a stream or is padding, and anything else is a `Problem`.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from penstock.hooks.problems import Problem, ProblemError

_CHUNK = 1 << 20


@contextmanager
def open_input(path: Path) -> Generator[BinaryIO]:
    """The bytes of a file, decompressed if its name ends in .gz, .bz2, .xz or .zst. Raises `ProblemError` for any error
    while reading it, for a compressed file that is empty, cut off or damaged, and for bytes after its last stream."""
    try:
        with path.open("rb") as raw:
            start = _STREAMS.get(path.suffix)
            yield raw if start is None else cast(BinaryIO, io.BufferedReader(_Streams(raw, start), _CHUNK))
    except _DamagedError as error:
        what = f"the compressed file is damaged ({error})"
        raise ProblemError(Problem("damaged-file", what, str(path), "download or write it again")) from error
    except ModuleNotFoundError as error:
        if error.name != "zstandard":
            raise
        fix = "install it with `uv add zstandard`, or decompress the file"
        raise ProblemError(Problem("missing-extra", "needs the package 'zstandard'", str(path), fix)) from error
    except OSError as error:
        fix = "check the path and its permissions"
        raise ProblemError(Problem("unreadable-file", f"cannot be read ({error.strerror})", str(path), fix)) from error


def uncompressed_name(path: Path) -> str:
    """The name of a file without the suffix of its compression."""
    return path.name.removesuffix(path.suffix) if path.suffix in _STREAMS else path.name


class _DamagedError(Exception):
    """Why a compressed file cannot be read to its end."""


class _Stream(Protocol):
    """Decompresses one stream. `hungry` is False while it can continue without more input."""

    @property
    def done(self) -> bool: ...

    @property
    def hungry(self) -> bool: ...

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        """At most a chunk of output, and the input that was not used."""
        ...


class _Gzip:
    hungry = True

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def done(self) -> bool:
        return self._inner.eof

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        out = self._inner.decompress(data, _CHUNK)
        return out, self._inner.unused_data or self._inner.unconsumed_tail


class _Buffering:
    """`bz2` and `lzma` keep the input that they did not use."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner

    @property
    def done(self) -> bool:
        return self._inner.eof

    @property
    def hungry(self) -> bool:
        return self._inner.needs_input

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        return self._inner.decompress(data, _CHUNK), self._inner.unused_data


class _Zstandard:
    """Windows of up to 2 GB are read, as `zstd --long=31` writes them; the library's own limit is 128 MB."""

    hungry = True

    def __init__(self) -> None:
        zstandard: Any = importlib.import_module("zstandard")
        self._inner = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        self._error: type[Exception] = zstandard.ZstdError

    @property
    def done(self) -> bool:
        return self._inner.eof

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes little input, because the library returns all of its output at once: up to 32,000 times as much."""
        most = 1 << 12
        try:
            out: bytes = self._inner.decompress(data[:most])
        except self._error as error:
            raise ValueError(str(error)) from error
        return out, self._inner.unused_data + data[most:]


_STREAMS: Mapping[str, Callable[[], _Stream]] = {
    ".gz": _Gzip,
    ".bz2": lambda: _Buffering(bz2.BZ2Decompressor()),
    ".xz": lambda: _Buffering(lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    ".zst": _Zstandard,
}


class _Streams(io.RawIOBase):
    """All streams of a file, joined. Zeros between and after them are padding."""

    def __init__(self, raw: BinaryIO, start: Callable[[], _Stream]) -> None:
        self._raw = raw
        self._start = start
        self._stream: _Stream | None = None
        self._streams = 0
        self._input = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._advance():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _advance(self) -> bool:
        """Decompresses a little more; False at the end of the file."""
        ended = False
        if not self._input and (self._stream is None or self._stream.hungry):
            self._input = self._raw.read(1 << 16)
            ended = not self._input
        if self._stream is None:
            self._input = self._input.lstrip(b"\0") if self._streams else self._input
            if not self._input:
                if ended and not self._streams:
                    raise _DamagedError("it is empty")
                return not ended
            self._stream = self._start()
            self._streams += 1
        self._step(self._stream, ended)
        return True

    def _step(self, stream: _Stream, ended: bool) -> None:
        try:
            out, self._input = stream.step(self._input)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            raise _DamagedError(f"{error}, in stream {self._streams} of the file") from error
        except MemoryError as error:
            raise _DamagedError("its decompression needs more memory than there is") from error
        if ended and not out and not stream.done:
            raise _DamagedError(f"it ends inside stream {self._streams}")
        self._ready = memoryview(out)
        if stream.done:
            self._stream = None
