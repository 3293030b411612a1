"""Laws of observers: `Observer`, which watches training and must not touch it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws import general
from penstock.conformance.laws.run_directory import (
    expect_nothing_outside,
    expect_others_kept,
    expect_same_files,
    files_of,
    folders,
)
from penstock.conformance.randomness import leaves_the_random_state
from penstock.hooks.contracts import StepRecord

OBSERVER = "observer"
_HEADER = {"model": "kit", "k": 2, "hidden_size": 8, "tokenizer": "bytes", "data": "0" * 16}


@law(OBSERVER, needs=(general.settings_are_arguments_of_the_target,))
def a_run_is_watched(subject: Subject) -> None:
    """The observer sees steps in order, with a checkpoint among them, and then the end.

    The component is built with `run_directory`, an existing folder, and `header`, a mapping.
    """
    _watch(subject, subject.folder, first=1, last=4)


@law(OBSERVER, needs=(a_run_is_watched,))
def a_dense_model_is_watched(subject: Subject) -> None:
    """Records of a model without routed layers are accepted: `layers` and `counts_LE` are empty.

    Write nothing if there is nothing to report, and do not assume a first layer.
    """
    _watch(subject, subject.folder, first=1, last=4, layers=0)


@law(OBSERVER, needs=(a_run_is_watched,))
def a_run_without_steps_ends(subject: Subject) -> None:
    """A run may end before its first step.

    Check for means over nothing and `np.stack` of an empty list.
    """
    _build(subject, subject.folder).on_end()


@law(OBSERVER, needs=(a_run_is_watched,))
def what_it_sees_is_left_alone(subject: Subject) -> None:
    """Header, metrics and counts are not changed.

    The next observer gets the same objects: copy before changing anything.
    """
    header, record = copy.deepcopy(_HEADER), _record(1)
    observer = subject.build(run_directory=subject.folder, header=header)
    observer.on_step(record)
    observer.on_checkpoint(1)
    observer.on_end()
    expect(header == _HEADER, f"the header is now {header}")
    expect(record.metrics == _record(1).metrics, f"the metrics are now {record.metrics}")
    expect(np.array_equal(record.counts_LE, _record(1).counts_LE), "the counts have other values")


@law(OBSERVER, needs=(a_run_is_watched,))
def no_global_random_numbers_are_drawn(subject: Subject) -> None:
    """Observing does not draw from the global generators of numpy and Python.

    Use your own generator: observing must not change the run.
    """
    leaves_the_random_state(lambda: _watch(subject, subject.folder, first=1, last=4))


@law(OBSERVER, needs=(a_run_is_watched,))
def nothing_is_written_outside_the_run_directory(subject: Subject) -> None:
    """Files appear only in the run directory, not next to it or in the working directory.

    Join every path to `run_directory`.
    """
    expect_nothing_outside(subject.folder, lambda run: _watch(subject, run, first=1, last=4))


@law(OBSERVER, needs=(a_run_is_watched,))
def a_run_that_left_nothing_resumes(subject: Subject) -> None:
    """`on_resume` works for any step in a run directory without the observer's files.

    A run may be killed before its first checkpoint, or the observer added only on resume.
    """
    for step in (0, 3):
        [run] = folders(subject.folder, str(step))
        _watch(subject, run, first=step + 1, last=step + 2, resumed=step)


@law(OBSERVER, needs=(a_run_that_left_nothing_resumes,))
def a_run_resumes(subject: Subject) -> None:
    """A new observer of the same directory can resume from an earlier step and see the following steps again.

    `on_resume(step)` invalidates what was seen after that step: a repeated step is not an error.
    """
    _watch(subject, subject.folder, first=1, last=4)
    _watch(subject, subject.folder, first=3, last=5, resumed=2)


@law(OBSERVER, needs=(a_run_resumes,))
def what_others_wrote_is_kept(subject: Subject) -> None:
    """Other files in the run directory are unchanged, even after a resume.

    Config, metrics and checkpoints are stored there: never empty a folder that is not your own.
    """

    def run_and_resume() -> None:
        _watch(subject, subject.folder, first=1, last=4)
        _watch(subject, subject.folder, first=3, last=4, resumed=2)

    expect_others_kept(subject.folder, run_and_resume)


@law(OBSERVER, needs=(a_run_resumes,), capability="exact-resume")
def a_resumed_run_leaves_the_files_of_a_whole_one(subject: Subject) -> None:
    """After a resume the files are byte-identical to those of an uninterrupted run, and there is at least one.

    Drop what was seen after the resumed step, and do not write times or process ids.
    """
    whole, resumed = folders(subject.folder, "whole", "resumed")
    _watch(subject, whole, first=1, last=6)
    _watch(subject, resumed, first=1, last=4)
    _watch(subject, resumed, first=3, last=4, shift=1, resumed=2)
    _watch(subject, resumed, first=3, last=6, resumed=2)
    expect(files_of(whole), "it writes no files")
    expect_same_files(whole, resumed)


def _build(subject: Subject, run: Path) -> Any:
    return subject.build(run_directory=run, header=copy.deepcopy(_HEADER))


def _watch(
    subject: Subject, run: Path, *, first: int, last: int, layers: int = 2, shift: int = 0, resumed: int | None = None
) -> None:
    """A process of the run, with a checkpoint after every second step."""
    observer = _build(subject, run)
    if resumed is not None:
        observer.on_resume(resumed)
    for step in range(first, last + 1):
        observer.on_step(_record(step, layers, shift))
        if step % 2 == 0:
            observer.on_checkpoint(step)
    observer.on_end()


def _record(step: int, layers: int = 2, shift: int = 0) -> StepRecord:
    """`shift` tells a step that was done again from its first time."""
    counts_LE = np.arange(layers * 4, dtype=np.int64).reshape(layers, 4) + step + shift
    metrics = {"loss": 1.0 / step + shift, "tokens": 1000.0 * step}
    return StepRecord(step, 1000 * step, metrics, counts_LE, tuple(range(1, layers + 1)))


LAWS = laws_in(globals())
