"""Progress while training: a bar on a terminal, a line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY = 15.0  # seconds between lines without a terminal


class Progress:
    """Shows step, loss, tokens per second and time left; nothing unless `shown`."""

    def __init__(self, steps: int, done: int, *, tokens: int = 0, shown: bool = True) -> None:
        self._steps, self._shown = steps, shown
        self._terminal = sys.stderr.isatty()
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (self._terminal and shown),
        )
        self._task: TaskID = self._bar.add_task("", total=steps, completed=done)
        self._second = self._line = self._begun = time.monotonic()
        self._first, self._first_tokens = done, tokens

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Shows that this many steps and tokens of the run are done."""
        now = time.monotonic()
        seconds = max(now - self._begun, 1e-9)
        rate = (step - self._first) / seconds
        text = f"loss {metrics['loss']:.3f}  {(tokens - self._first_tokens) / seconds:,.0f} tokens/s"
        self._bar.update(self._task, completed=step, description=text)
        if self._shown and not self._terminal and (now - self._line >= LINE_EVERY or step == self._steps):
            self._line = now
            left = (self._steps - step) / rate
            print(f"step {step}/{self._steps}  {text}  {left:.0f} s left", file=sys.stderr, flush=True)  # noqa: T201

    def every_second(self, action: Callable[[], None]) -> None:
        if time.monotonic() - self._second >= 1.0:
            self._second = time.monotonic()
            action()
