"""The rows that a run has logged, stored next to the libraries, because none of them can forget a row."""

from __future__ import annotations

import json
from pathlib import Path

from penstock.hooks.atomic import write_text
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import failed

Row = tuple[int, dict[str, float]]

CLOSED = b'"closed"\n'


class History:
    """A file of JSON lines: `[step, metrics]` per row, and `"closed"` when a tracker was closed.

    A line is complete once it ends. NaN and infinities are written as Python's `json` writes them, and reads them back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._grown = False

    def append(self, row: Row) -> None:
        self._write(json.dumps(row) + "\n")
        self._grown = True

    def close(self) -> None:
        """Records that the library has every row; does nothing if no row came since it was opened."""
        if self._grown:
            self._write(CLOSED.decode())
        self._grown = False

    def rewind(self, step: int) -> list[Row] | None:
        """Drops the rows after `step`. Returns the rows that stay, or None if the library has exactly these: it was
        closed, and no row was dropped."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if not lines:
            return None
        whole = [(number, line) for number, line in enumerate(lines, 1) if line.endswith(b"\n") and line != CLOSED]
        rows = [_row(line, f"{self.path}:{number}") for number, line in whole]
        kept = [(number, metrics) for number, metrics in rows if number <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return None if lines[-1] == CLOSED and len(kept) == len(rows) else kept

    def _write(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)


def _row(line: bytes, where: str) -> Row:
    try:
        row = parse_json(line, distinct=True)
        match row:
            case [int(step), dict() as metrics] if all(isinstance(value, int | float) for value in metrics.values()):
                return step, metrics
            case _:
                raise ValueError("not a step and its metrics")
    except ValueError as error:
        raise failed("invalid-json", f"damaged ({error})", where, "remove the line") from error
