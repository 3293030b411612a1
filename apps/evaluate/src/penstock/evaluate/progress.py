"""How far tasks are: a bar on a terminal, a line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY = 15.0  # seconds between lines without a terminal


class TaskProgress:
    """Called with a task's name, and how many of its requests are answered. The time left is that of what remains, at
    the speed since the first call: what was answered earlier took no time."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._line = time.monotonic()

    def __enter__(self) -> TaskProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if task not in self._tasks:
            self._tasks[task] = self._bar.add_task(task, total=total)
            self._begun[task] = now, done
            self._print(f"{task} ..." if not done else f"{task} ...  {done:,} of {total:,} answered earlier")
        self._bar.update(self._tasks[task], completed=done, total=total)
        begun, first = self._begun[task]
        if now - self._line >= LINE_EVERY and done > first:
            self._line = now
            left = (now - begun) * (total - done) / (done - first)
            self._print(f"{task} {done:,}/{total:,}  {left:.0f} s left")

    def _print(self, line: str) -> None:
        if not self._terminal:
            print(line, file=sys.stderr, flush=True)  # noqa: T201
