"""SIGINT, SIGTERM and SIGHUP do the same: they stop long work at a point where nothing is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from penstock.run import messages

Handler = Callable[[int, FrameType | None], Any]


def stop_signals() -> list[signal.Signals]:
    """Those that ask a process to end. A hang-up, which a closed terminal sends, does not where it is ignored, as
    `nohup` has it; Windows has none."""
    signals = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        signals.append(hang_up)
    return signals


def is_hang_up(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does: unfinished work is cleaned up before the process
    exits."""
    with _handled_by(signal.default_int_handler, [each for each in stop_signals() if each != signal.SIGINT]):
        yield


@contextmanager
def stop_requests(*, reported: bool) -> Iterator[Callable[[], bool]]:
    """Turns the first signal into a request to stop after the step, with a note if `reported`; a second one acts at
    once, unless it is a hang-up: a terminal that closes sends two, its own and its shell's."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for each, handler in previous.items():
            signal.signal(each, signal.SIG_IGN if is_hang_up(each) else handler)
        if reported:
            messages.note("\nstopping after this step and writing a checkpoint; interrupt again to stop immediately")

    with _handled_by(ask, stop_signals()) as previous:
        yield lambda: bool(asked)


@contextmanager
def _handled_by(handler: Handler, signals: Sequence[signal.Signals]) -> Iterator[dict[signal.Signals, Any]]:
    """Yields the handlers before, which return afterwards."""
    previous = {each: signal.signal(each, handler) for each in signals}
    try:
        yield previous
    finally:
        for each, before in previous.items():
            signal.signal(each, before)
