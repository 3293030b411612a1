"""The tracker that all three libraries share, and the interface that each library implements."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock_trackers.history import History, Row


class Store(Protocol):
    """A run in a library. The library is imported by the first `send` or `forget`."""

    @property
    def forgets(self) -> bool:
        """Whether the run can start over, so that no invalid row stays."""
        ...

    def send(self, rows: list[Row]) -> None: ...

    def forget(self) -> None:
        """Drops all rows of the run, including those of earlier processes; the next `send` starts it over."""
        ...

    def finish(self) -> None:
        """Flushes the rows that were sent; does nothing without rows, or if called twice."""
        ...


class LibraryTracker:
    """Logs to a library, and to a history in the run directory.

    If a resumed run has invalid rows in its history, or was killed before the library had all rows, its record in the
    library starts over with the valid rows.
    """

    def __init__(self, library: str, store: Store, run_directory: Path) -> None:
        """Raises `ProblemError` if the library is not installed; imports nothing."""
        if importlib.util.find_spec(library) is None:
            raise ProblemError(_missing(library), ExitCode.PLUGIN)
        self._store = store
        self._history = History(run_directory / f"{library}-rows.jsonl")

    def resume(self, step: int) -> None:
        rows = self._history.rewind(step)
        if rows is not None and self._store.forgets:
            self._store.forget()
            self._store.send(rows)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = step, {name: float(value) for name, value in metrics.items()}
        self._history.append(row)
        self._store.send([row])

    def close(self) -> None:
        self._store.finish()
        self._history.close()


def _missing(library: str) -> Problem:
    fix = f'install it with `uv add "penstock-trackers[{library}]"`'
    return Problem("missing-library", f"tracker '{library}' needs the library {library}", "train.trackers", fix)
