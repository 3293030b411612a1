"""What `penstock simulate validate` prints: measured, predicted, error and floor of every row, and the error bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.cli import output
from penstock.netsim.validation import Group, PredictedRow, Validation, nvlink_summary, validate
from penstock.run.records.record import Record


@dataclass(frozen=True, slots=True)
class ErrorBar(Record):
    """Errors of some rows relative to the measurements, next to those of the floor; `bar` is the promised bound."""

    name: str
    rows: int
    mean_absolute_error: float
    largest_absolute_error: float
    floor_mean_absolute_error: float | None
    bar: float | None
    met: bool


@dataclass(frozen=True, slots=True)
class ComparedRow(Record):
    """One measurement and the prediction made without it, in seconds."""

    label: str
    group: str
    measured_seconds: float
    predicted_seconds: float
    error: float
    floor_seconds: float | None
    floor_error: float | None


@dataclass(frozen=True, slots=True)
class ComparedTable(Record):
    """A published table, and the figures that were fitted to all of its rows."""

    name: str
    table: str
    source: str
    commit: str
    machine: str
    figures: dict[str, float]
    rows: list[ComparedRow]
    groups: list[ErrorBar]


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """What `penstock simulate validate` finds."""

    validations: list[ComparedTable]
    bars: list[ErrorBar]

    @property
    def missed(self) -> list[str]:
        """Names of the bars that the errors exceed."""
        return [bar.name for bar in self.bars if not bar.met]


def comparison() -> Comparison:
    """Every table with its rows, in seconds, and the bars of all of them."""
    validations = validate()
    bars = [
        _bar(group, f"{validation.name}, {group.name}")
        for validation in validations
        for group in validation.groups
        if group.bar is not None
    ]
    summary = nvlink_summary(validations)
    bars.append(_bar(summary, summary.name))
    return Comparison([_table(validation) for validation in validations], bars)


def _table(validation: Validation) -> ComparedTable:
    table = validation.table
    return ComparedTable(
        name=validation.name,
        table=table.name,
        source=table.source,
        commit=table.commit,
        machine=table.machine,
        figures=dict(validation.figures),
        rows=[_row(row) for row in validation.rows],
        groups=[_bar(group, group.name) for group in validation.groups],
    )


def _row(row: PredictedRow) -> ComparedRow:
    return ComparedRow(
        label=row.label,
        group=row.group,
        measured_seconds=row.measured,
        predicted_seconds=row.predicted,
        error=row.error,
        floor_seconds=row.floor,
        floor_error=None if row.floor is None else row.floor / row.measured - 1,
    )


def _bar(group: Group, name: str) -> ErrorBar:
    return ErrorBar(
        name=name,
        rows=group.rows,
        mean_absolute_error=group.mean_error,
        largest_absolute_error=group.largest_error,
        floor_mean_absolute_error=group.floor_error,
        bar=group.bar,
        met=group.met,
    )


def comparison_text(result: Comparison) -> str:
    """Each row is predicted by a model fitted without it. So is the floor, a fit of one latency and one bandwidth."""
    rows = [
        (
            bar.name,
            _percent(bar.mean_absolute_error),
            _percent(bar.floor_mean_absolute_error),
            _percent(bar.bar),
            "met" if bar.met else "MISSED",
        )
        for bar in result.bars
    ]
    columns = ("mean absolute error, leave one out", "ours", "floor", "bar", "")
    return "\n\n".join([*map(_table_text, result.validations), output.table(columns, rows)])


def _table_text(table: ComparedTable) -> str:
    rows = [
        (
            row.label,
            f"{1e6 * row.measured_seconds:.1f}",
            f"{1e6 * row.predicted_seconds:.1f}",
            _signed(row.error),
            "" if row.floor_seconds is None else f"{1e6 * row.floor_seconds:.1f}",
            _signed(row.floor_error),
        )
        for row in table.rows
    ]
    figures = ", ".join(f"{name} {_figure(name, value)}" for name, value in table.figures.items())
    head = [table.name, f"{table.source}; {table.commit}", f"fitted to all rows: {figures}", ""]
    columns = ("row", "measured us", "predicted us", "error", "floor us", "floor error")
    return "\n".join([*head, output.table(columns, rows), _groups_text(table.groups)])


def _groups_text(groups: Sequence[ErrorBar]) -> str:
    return "\n".join(
        f"{group.name}: mean absolute error {_percent(group.mean_absolute_error)}, "
        f"floor {_percent(group.floor_mean_absolute_error)}"
        for group in groups
    )


def _figure(name: str, value: float) -> str:
    return f"{value / 1e9:.1f} GB/s" if "bandwidth" in name else f"{1e6 * value:.2f} us"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"
