"""What `penstock simulate validate` prints: measured, predicted, error and floor of every row, and each bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.cli import output
from penstock.netsim.validation import Group, PredictedRow, Validation, nvlink_summary, validate


def validation_result() -> dict[str, Any]:
    """Every table with its rows, in seconds, and the bars of all of them."""
    validations = validate()
    bars = [
        {"name": f"{validation.name}, {group.name}", **_group(group)}
        for validation in validations
        for group in validation.groups
        if group.bar is not None
    ]
    summary = nvlink_summary(validations)
    bars.append({"name": summary.name, **_group(summary)})
    return {"validations": [_validation(validation) for validation in validations], "bars": bars}


def _validation(validation: Validation) -> dict[str, Any]:
    table = validation.table
    return {
        "name": validation.name,
        "table": table.name,
        "source": table.source,
        "commit": table.commit,
        "machine": table.machine,
        "figures": dict(validation.figures),
        "rows": [_row(row) for row in validation.rows],
        "groups": [{"name": group.name, **_group(group)} for group in validation.groups],
    }


def _row(row: PredictedRow) -> dict[str, Any]:
    return {
        "label": row.label,
        "group": row.group,
        "measured_seconds": row.measured,
        "predicted_seconds": row.predicted,
        "error": row.error,
        "floor_seconds": row.floor,
        "floor_error": None if row.floor is None else row.floor / row.measured - 1,
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "rows": group.rows,
        "mean_absolute_error": group.mean_error,
        "largest_absolute_error": group.largest_error,
        "floor_mean_absolute_error": group.floor_error,
        "bar": group.bar,
        "met": group.met,
    }


def validation_text(result: dict[str, Any]) -> str:
    """Each row is predicted by a model that did not see it; so is the floor, which knows a latency and a bandwidth."""
    parts = [_table_text(validation) for validation in result["validations"]]
    rows = [
        (
            bar["name"],
            _percent(bar["mean_absolute_error"]),
            _percent(bar["floor_mean_absolute_error"]),
            _percent(bar["bar"]),
            "met" if bar["met"] else "MISSED",
        )
        for bar in result["bars"]
    ]
    columns = ("mean absolute error, leave one out", "ours", "floor", "bar", "")
    return "\n\n".join([*parts, output.table(columns, rows)])


def _table_text(validation: dict[str, Any]) -> str:
    rows = [
        (
            row["label"],
            f"{1e6 * row['measured_seconds']:.1f}",
            f"{1e6 * row['predicted_seconds']:.1f}",
            _signed(row["error"]),
            "" if row["floor_seconds"] is None else f"{1e6 * row['floor_seconds']:.1f}",
            _signed(row["floor_error"]),
        )
        for row in validation["rows"]
    ]
    figures = ", ".join(f"{name} {_figure(name, value)}" for name, value in validation["figures"].items())
    head = [
        validation["name"],
        f"{validation['source']}; {validation['commit']}",
        f"fitted to all rows: {figures}",
        "",
    ]
    columns = ("row", "measured us", "predicted us", "error", "floor us", "floor error")
    return "\n".join([*head, output.table(columns, rows), _groups_text(validation["groups"])])


def _groups_text(groups: Sequence[dict[str, Any]]) -> str:
    return "\n".join(
        f"{group['name']}: mean absolute error {_percent(group['mean_absolute_error'])}, "
        f"floor {_percent(group['floor_mean_absolute_error'])}"
        for group in groups
    )


def _figure(name: str, value: float) -> str:
    return f"{value / 1e9:.1f} GB/s" if "bandwidth" in name else f"{1e6 * value:.2f} us"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"
