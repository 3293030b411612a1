"""`summary.md`: the tables of a sweep for a reader without a browser, and for a repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.hooks.atomic import write_text
from penstock.sweep.analysis import Analysis
from penstock.sweep.sections import (
    Table,
    cells_table,
    commands_table,
    decisions_table,
    effects_table,
    front_table,
    phases_table,
    ranks_table,
    rates_table,
    summary,
)


def write_summary(name: str, analysis: Analysis, wanted: int, out: Path) -> Path:
    """Atomically writes the summary; `wanted` is the number of runs of the whole sweep."""
    figures = analysis.figures
    tables = [
        cells_table(analysis),
        effects_table(analysis),
        *map(front_table, analysis.objective_fronts),
        *map(ranks_table, analysis.rankings),
        phases_table(analysis),
        *([rates_table(analysis.at_rates)] if analysis.at_rates else []),
        decisions_table(figures),
    ]
    parts = [f"# {name}", summary(figures, wanted), *map(markdown, (table for table in tables if table.rows))]
    if commands := commands_table(figures).rows:
        parts += ["## Reproduce a row", *(f"{cell}:\n\n    {command}" for cell, command in commands)]
    write_text(out, "\n\n".join(parts) + "\n")
    return out


def markdown(table: Table) -> str:
    """The table with its title and caption.

    >>> print(markdown(Table("T", ("a", "b"), [("x|y", "1")], "Said.")))
    ## T
    <BLANKLINE>
    | a | b |
    |---|--:|
    | x\\|y | 1 |
    <BLANKLINE>
    Said.
    """
    rule = "|---|" + "--:|" * (len(table.columns) - 1)
    lines = [_line(table.columns), rule, *map(_line, table.rows)]
    return "\n\n".join(filter(None, [f"## {table.title}", "\n".join(lines), table.caption]))


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in values) + " |"
