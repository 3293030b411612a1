"""Laws of trackers: `Tracker`, where the metrics of a run go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws.run_directory import (
    expect_nothing_outside,
    expect_others_kept,
    expect_same_files,
    files_of,
    folders,
)

TRACKER = "tracker"


@law(TRACKER)
def a_run_is_logged(subject: Subject) -> None:
    """Steps can be logged in order, and then the tracker closed.

    The component is built with `run_directory`, an existing folder.
    """
    _life(subject, subject.folder, first=1, last=3)


@law(TRACKER, needs=(a_run_is_logged,))
def a_run_that_logs_nothing_is_closed(subject: Subject) -> None:
    """A tracker that logged nothing can be closed.

    A run may fail before its first step: close only what was opened.
    """
    _build(subject, subject.folder).close()


@law(TRACKER, needs=(a_run_is_logged,))
def closing_twice_is_closing_once(subject: Subject) -> None:
    """`close` may be called again.

    Both the end of a run and its cleanup call it.
    """
    tracker = _life(subject, subject.folder, first=1, last=2)
    tracker.close()


@law(TRACKER, needs=(a_run_is_logged,))
def what_is_no_number_is_logged(subject: Subject) -> None:
    """NaN and infinities can be logged like any value.

    A diverging loss must be visible: write null if the format has no NaN.
    """
    _log(_build(subject, subject.folder), {"loss": math.nan, "norm": math.inf, "gap": -math.inf})


@law(TRACKER, needs=(a_run_is_logged,))
def any_type_of_number_is_logged(subject: Subject) -> None:
    """Integers and numpy scalars can be logged like floats.

    Convert with `float(value)` or `value.item()` before writing.
    """
    numbers = (7, 2**40, np.float32(0.5), np.float64(0.5), np.int64(7))
    _log(_build(subject, subject.folder), {f"of-type-{number}": value for number, value in enumerate(numbers)})


@law(TRACKER, needs=(a_run_is_logged,))
def any_name_is_logged(subject: Subject) -> None:
    """A metric name may contain anything: slashes, dots, spaces, symbols and other alphabets.

    Do not use names such as `heldout.bits_per_byte@disjoint-256` as file names or identifiers.
    """
    names = (
        "load/layer.3",
        "heldout.bits_per_byte@disjoint-256",
        "share of time",
        "größe",
        'a "quoted", name',
        "../up",
    )
    _log(_build(subject, subject.folder), {name: float(number) for number, name in enumerate(names)})


@law(TRACKER, needs=(a_run_is_logged,))
def a_metric_may_come_later(subject: Subject) -> None:
    """Steps need not have the same metrics.

    Evaluations run only every few steps: do not fix the columns at the first step.
    """
    tracker = _build(subject, subject.folder)
    for step, names in enumerate((["loss"], ["loss", "bits"], ["bits"], []), 1):
        tracker.log(step, dict.fromkeys(names, 1.0))
    tracker.close()


@law(TRACKER, needs=(a_run_is_logged,))
def the_metrics_are_left_alone(subject: Subject) -> None:
    """The logged mapping is not changed.

    The next tracker gets the same mapping: make a new dict to add the step.
    """
    metrics = {"loss": 1.0, "norm": 2.0}
    tracker = _build(subject, subject.folder)
    tracker.log(1, metrics)
    tracker.log(2, MappingProxyType(metrics))
    tracker.close()
    expect(metrics == {"loss": 1.0, "norm": 2.0}, f"the metrics are now {metrics}")


@law(TRACKER, needs=(a_run_is_logged,))
def nothing_is_written_outside_the_run_directory(subject: Subject) -> None:
    """Files appear only in the run directory, not next to it or in the working directory.

    Join every path to `run_directory`, including those of a client library.
    """
    expect_nothing_outside(subject.folder, lambda run: _life(subject, run, first=1, last=3))


@law(TRACKER, needs=(a_run_is_logged,))
def a_run_resumes(subject: Subject) -> None:
    """A new tracker of the same directory can resume from an earlier step and log the following steps again.

    `resume(step)` invalidates what was logged after that step: a repeated step is not an error.
    """
    _life(subject, subject.folder, first=1, last=4)
    _life(subject, subject.folder, first=3, last=5, resumed=2)


@law(TRACKER, needs=(a_run_resumes,))
def what_others_wrote_is_kept(subject: Subject) -> None:
    """Other files in the run directory are unchanged, even after a resume.

    Config, checkpoints and traces are stored there: never empty a folder that is not your own.
    """

    def run_and_resume() -> None:
        _life(subject, subject.folder, first=1, last=3)
        _life(subject, subject.folder, first=2, last=3, resumed=1)

    expect_others_kept(subject.folder, run_and_resume)


@law(TRACKER, needs=(a_run_resumes,))
def a_run_resumes_from_before_its_first_step(subject: Subject) -> None:
    """A run that was stopped before it logged anything can resume, also from step 0.

    The file may be missing or empty.
    """
    for step in (0, 5):
        [run] = folders(subject.folder, str(step))
        _life(subject, run, first=step + 1, last=step + 2, resumed=step)


@law(TRACKER, needs=(a_run_resumes,))
def a_run_that_was_never_closed_resumes(subject: Subject) -> None:
    """A tracker that was never closed does not block the next one.

    A killed process closes nothing: leave no lock that only `close` removes.
    """
    killed = _build(subject, subject.folder)
    for step in (1, 2, 3):
        killed.log(step, _metrics(step))
    _life(subject, subject.folder, first=2, last=4, resumed=1)


@law(TRACKER, needs=(a_run_that_was_never_closed_resumes,))
def a_line_that_was_cut_is_survived(subject: Subject) -> None:
    """If it writes lines of text, `resume` accepts a truncated last line.

    Drop a last line without a line break before parsing.
    """
    _life(subject, subject.folder, first=1, last=3)
    lines = {name: content for name, content in files_of(subject.folder).items() if _is_lines(content)}
    if not lines:
        raise NotApplicable("it writes no lines of text")
    for name, whole in lines.items():
        last = len(whole.splitlines(keepends=True)[-1])
        (subject.folder / name).write_bytes(whole[: len(whole) - last + last // 2])
    _life(subject, subject.folder, first=3, last=4, resumed=2)


@law(TRACKER, needs=(a_run_is_logged,))
def runs_are_kept_apart(subject: Subject) -> None:
    """Trackers of two directories each write only to their own.

    Store paths and files on the object, not in class or module.
    """
    one, other = folders(subject.folder, "one", "other")
    first, second = _build(subject, one), _build(subject, other)
    idle = files_of(other)
    for step in (1, 2):
        first.log(step, _metrics(step))
    first.close()
    expect(files_of(other) == idle, f"logging to {one.name} changes {other.name}")
    _log(second, _metrics(1))


@law(TRACKER, needs=(a_run_is_logged,), capability="local")
def what_is_logged_is_in_the_run_directory(subject: Subject) -> None:
    """Files of the run directory are larger after a longer run.

    Write below `run_directory`. A tracker that sends metrics elsewhere does not declare this.
    """
    short, long = folders(subject.folder, "short", "long")
    for run, last in ((short, 2), (long, 50)):
        _life(subject, run, first=1, last=last)
    expect(_size(long) > _size(short), f"2 steps leave {_size(short)} bytes, 50 steps {_size(long)}")


@law(TRACKER, needs=(what_is_logged_is_in_the_run_directory,), capability="durable")
def a_logged_step_survives_a_kill(subject: Subject) -> None:
    """Each `log` makes the files of the run directory larger before it returns.

    Flush after every step: what a killed run has not written is lost for good.
    """
    tracker = _build(subject, subject.folder)
    for step in (1, 2, 3):
        before = _size(subject.folder)
        tracker.log(step, _metrics(step))
        expect(_size(subject.folder) > before, f"no file has grown after step {step} was logged")
    tracker.close()


@law(TRACKER, needs=(a_run_resumes, what_is_logged_is_in_the_run_directory), capability="exact-resume")
def a_resumed_run_leaves_the_files_of_a_whole_one(subject: Subject) -> None:
    """After a resume the files are byte-identical to those of an uninterrupted run.

    Drop the steps after the resumed one, and do not write times or process ids.
    """
    whole, resumed = folders(subject.folder, "whole", "resumed")
    _life(subject, whole, first=1, last=5)
    _life(subject, resumed, first=1, last=2)
    _life(subject, resumed, first=3, last=4, shift=100.0, resumed=2)
    _life(subject, resumed, first=3, last=5, resumed=2)
    expect_same_files(whole, resumed)


def _build(subject: Subject, run: Path) -> Any:
    return subject.build(run_directory=run)


def _life(subject: Subject, run: Path, *, first: int, last: int, shift: float = 0.0, resumed: int | None = None) -> Any:
    """A process of the run: the tracker, closed."""
    tracker = _build(subject, run)
    if resumed is not None:
        tracker.resume(resumed)
    for step in range(first, last + 1):
        tracker.log(step, _metrics(step + shift))
    tracker.close()
    return tracker


def _log(tracker: Any, metrics: Mapping[str, Any]) -> None:
    tracker.log(1, metrics)
    tracker.close()


def _metrics(number: float) -> dict[str, float]:
    return {"loss": 1.0 / number, "tokens": 1000.0 * number}


def _size(run: Path) -> int:
    return sum(map(len, files_of(run).values()))


def _is_lines(content: bytes) -> bool:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return text.count("\n") > 1 and text.endswith("\n")


LAWS = laws_in(globals())
