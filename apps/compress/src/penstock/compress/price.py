"""What a plan costs: what is left to train, and the bytes that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.cli import output
from penstock.compress.plan import PlannedRow
from penstock.compress.rows import Workshop
from penstock.pages.formats import NO_BREAK, duration
from penstock.run.directory import RunDirectory
from penstock.run.records.record import Record
from penstock.train.compose import Composition, parameter_summary, stored_tensors
from penstock.train.reuse import finished, run_of


@dataclass(frozen=True, slots=True)
class RowPrice(Record):
    """What a row is and costs. `bytes` are those of its weights, without header and tokenizer; `seconds` are those of
    training with one seed, None if that is not known, and 0 for a row that is not trained."""

    row: str
    trained: bool
    change: str
    parameters: int
    bytes: float
    runs: int
    finished: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Price(Record):
    """What is left of a plan. `seconds_left` is None if no run says how long training takes."""

    plan: str
    folder: str
    seeds: list[int]
    rows: list[RowPrice]
    seconds_left: float | None


def price_of(
    workshop: Workshop, seeds: Sequence[int], built: Mapping[str, Composition], measured: RunDirectory
) -> Price:
    """Times are those of finished runs of the row, or of the run that is compressed, which took the same steps."""
    rows = [_row(workshop, row, seeds, built[row.name], measured) for row in workshop.plan.rows]
    left = [None if row.seconds is None else row.seconds * (row.runs - row.finished) for row in rows]
    known = None if None in left else sum(each for each in left if each is not None)
    return Price(workshop.plan.name, str(workshop.folder), list(seeds), rows, known)


def _row(
    workshop: Workshop, row: PlannedRow, seeds: Sequence[int], composition: Composition, measured: RunDirectory
) -> RowPrice:
    found: list[RunDirectory] = []
    if row.trained:
        runs = [run_of(workshop.runs, row.seeded(seed, workshop.registry)[0]) for seed in seeds]
        found = [run for run in runs if run is not None and finished(run)]
    return RowPrice(
        row=row.name,
        trained=row.trained,
        change=row.change,
        parameters=parameter_summary(composition).total,
        bytes=sum(each.bytes for each in stored_tensors(composition)),
        runs=len(seeds) if row.trained else 0,
        finished=len(found),
        seconds=_seconds(row, [*found, measured]) if row.trained else 0.0,
    )


def _seconds(row: PlannedRow, runs: Sequence[RunDirectory]) -> float | None:
    """Of the first run that has trained, for as many tokens as the row's."""
    for status in (run.status() for run in runs):
        if status.seconds and status.tokens_seen:
            return status.seconds / status.tokens_seen * row.config.train.tokens
    return None


def price_text(price: Price) -> str:
    rows = [
        (
            row.row,
            row.change,
            f"{row.parameters:,}",
            output.human_bytes(row.bytes),
            f"{row.finished} of {row.runs}" if row.trained else "not trained",
        )
        for row in price.rows
    ]
    return f"{output.table(('row', 'change', 'parameters', 'weights', 'runs finished'), rows)}\n\n{left_text(price)}"


def left_text(price: Price) -> str:
    """The time that is left, in words."""
    runs = sum(row.runs - row.finished for row in price.rows)
    if not runs:
        return "no run is left to train"
    if price.seconds_left is None:
        return f"{runs} runs are left to train; no earlier run says how long one takes"
    about = duration(price.seconds_left).replace(NO_BREAK, " ")
    return (
        f"{runs} runs are left to train: about {about}, if they take as long as the run that is compressed; "
        "packing and measuring the files are extra"
    )
