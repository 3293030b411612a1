"""The lines of text files, plain or compressed; a line that is no UTF-8 is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.hooks.compressed import open_input
from penstock.hooks.problems import Problem


def text_lines(file: Path) -> Iterator[tuple[str, str | Problem]]:
    """The place of each line, "FILE:LINE", and its text without the line break, or what is wrong with it."""
    with open_input(file) as stream:
        for number, line in enumerate(stream, 1):
            where = f"{file}:{number}"
            try:
                yield where, line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                what = f"invalid UTF-8, 0x{line[error.start]:02x} at byte {error.start} of the line"
                yield where, Problem("not-text", what, where, "convert the file to UTF-8")
