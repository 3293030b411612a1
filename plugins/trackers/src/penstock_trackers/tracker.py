"""The tracker that all three libraries have in common, and what each of them does for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock_trackers.history import History, Row


class Store(Protocol):
    """A run as a library keeps it. The library is imported by the first `send` or `forget`."""

    @property
    def forgets(self) -> bool:
        """Whether the run can begin anew, so that no void row stays."""
        ...

    def send(self, rows: list[Row]) -> None: ...

    def forget(self) -> None:
        """Drops all rows of the run, those of earlier processes too; what is sent next begins it anew."""
        ...

    def finish(self) -> None:
        """Hands over what was sent; nothing to do where nothing was, or twice."""
        ...


class LibraryTracker:
    """Logs to a library, and to a history in the run directory.

    A resumed run whose history has void rows, or that was killed before the library had them all, begins its record
    there anew with the rows that hold.
    """

    def __init__(self, library: str, store: Store, run_directory: Path) -> None:
        """Raises `ProblemError` where the library is not installed; imports nothing."""
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
    fix = f'`uv add "penstock-trackers[{library}]"` installs it'
    return Problem("missing-library", f"tracker '{library}' needs the library {library}", "train.trackers", fix)
