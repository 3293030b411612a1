"""Progress of work in stages: a bar each on a terminal, a line each elsewhere. Always on stderr."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar


class StageProgress:
    """Progress of data preparation: called with (stage, done, total or None)."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}"),
            console=Console(stderr=True),
            disable=not self._terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
            if not self._terminal:
                print(f"{stage} ...", file=sys.stderr, flush=True)  # noqa: T201
        self._bar.update(self._tasks[stage], completed=done, total=total)
