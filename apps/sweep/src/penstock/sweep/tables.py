"""The tidy tables of a sweep as CSV and Parquet: one row a cell, one a result, one a rank.

A column has one meaning and one type; what is unknown is empty. Columns of an axis begin with `axis.`, those of a
storage format with `bytes.`, those of a task with `tasks.`.
"""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.hooks.atomic import write_bytes, write_text
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.records.sweep import CellFigures, SweepFigures
from penstock.sweep.analysis import Analysis
from penstock.sweep.samples import results_of

Row = dict[str, Any]
PLAIN = [
    "state",
    "reason",
    "key",
    "phase",
    "tokens",
    "seeds",
    "bits_per_byte",
    "parameters",
    "active_parameters",
    "embedding_share",
    "flops_per_token",
    "lr",
    "common_lr",
    "max_violation",
    "max_violation_worst",
    "dead_experts",
    "latency_128",
    "latency_512",
    "tokens_per_second",
    "peak_memory",
]
"""Fields of a cell that are columns as they are."""
RESULT = [
    "cell",
    "phase",
    "seed",
    "tokens",
    "steps",
    "bits_per_byte",
    "perplexity",
    "loss",
    "text",
    "tokenizer",
    "seconds",
    "machine",
]


def tables_of(analysis: Analysis) -> dict[str, list[Row]]:
    """The rows of each table by its name. All rows of a table have the same columns."""
    figures = analysis.figures
    return {
        "cells": _filled([_cell_row(analysis, cell) for cell in figures.cells]),
        "results": _filled([{name: getattr(each, name) for name in RESULT} for each in results_of(figures)]),
        "ranks": _filled(
            [
                {
                    "phase": ranking.phase,
                    "cell": row.cell,
                    "tokens": ranking.tokens,
                    "bits_per_byte": row.at_tokens,
                    "rank": row.tokens_rank,
                    "equal_flops_tokens": row.flops_tokens,
                    "equal_flops_bits_per_byte": row.at_flops,
                    "equal_flops_rank": row.flops_rank,
                    "method": ranking.method,
                }
                for ranking in analysis.rankings
                for row in ranking.rows
            ]
        ),
    }


def _cell_row(analysis: Analysis, cell: CellFigures) -> Row:
    standing = next((each for each in analysis.standings.get(cell.phase, ()) if each.cell == cell.cell), None)
    member, difference = analysis.front_of(cell.cell), cell.difference
    return {
        "cell": cell.cell,
        **{f"axis.{name}": value for name, value in cell.settings.items()},
        **{name: getattr(cell, name) for name in PLAIN},
        "bits_per_byte_low": standing.low if standing else None,
        "bits_per_byte_high": standing.high if standing else None,
        "difference": difference.mean if difference else None,
        "difference_half_width": difference.half_width if difference else None,
        **{
            f"bits_per_byte.{phase}": each.bits_per_byte
            for phase, standings in analysis.standings.items()
            for each in standings
            if each.cell == cell.cell
        },
        **{f"bytes.{name}": value for name, value in cell.bytes.items()},
        **{f"tasks.{name}": value for name, value in cell.tasks.items()},
        "on_front": member.on_front if member else None,
        "front_membership": member.membership if member else None,
        "reproduce": " && ".join(reproduce_lines(analysis.figures, cell)),
    }


def reproduce_lines(figures: SweepFigures, cell: CellFigures) -> list[str]:
    """The commands that train the runs behind the cell's figures, one for each seed, as far as the sweep trained them,
    to be run where the sweep was. None for a sweep of an earlier version, which does not know its config."""
    if not figures.config:
        return []
    phase = next((each for each in figures.phases if each.name == cell.phase), None)
    own = {each.seed for each in figures.rungs if (each.cell, each.phase, each.tokens) == _place(cell)}
    order = [*dict.fromkeys([*(phase.seeds if phase else []), *sorted(own)])]
    seeds = [seed for seed in order if seed in own] or order[:1]
    whole = cell.run_tokens or (phase.tokens if phase else None)
    short = [f"train.tokens={whole}"] if cell.phase in ("short", "common") and whole else []
    until = [f"--until={cell.tokens}"] if cell.tokens and whole and cell.tokens < whole else []
    words = ["penstock", "train", figures.config, *cell.overrides]
    return [shlex.join([*words, *seed, *short, *until]) for seed in ([f"seed={each}"] for each in seeds)]


def _place(cell: CellFigures) -> tuple[str, str, int | None]:
    return cell.cell, cell.phase, cell.tokens


def _filled(rows: Sequence[Row]) -> list[Row]:
    """Every row with the columns of all, in the order of their first appearance; NaN is unknown, too."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: _known(row.get(name)) for name in columns} for row in rows]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def write_tables(tables: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    """Writes a CSV file for each table with rows, numbers in full precision."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_csv(rows, folder / f"{name}.csv") for name, rows in tables.items() if rows]


def _write_csv(rows: Sequence[Row], path: Path) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(
        [str(value).lower() if isinstance(value, bool) else value for value in row.values()] for row in rows
    )
    write_text(path, text.getvalue())
    return path


def write_parquet(tables: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    """Writes a Parquet file for each table with rows. Raises `ProblemError` without pyarrow."""
    try:
        import pyarrow  # a heavy extra, which CSV does without
        import pyarrow.parquet as parquet
    except ImportError as error:
        what = "Parquet needs pyarrow, which is not installed"
        problem = Problem("missing-extra", what, str(folder), 'uv add "penstock-sweep[parquet]", or read the CSV files')
        raise ProblemError(problem) from error
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, rows in tables.items():
        if rows:
            buffer = io.BytesIO()
            columns = {column: [row[column] for row in rows] for column in rows[0]}
            parquet.write_table(pyarrow.table(columns), buffer)
            write_bytes(folder / f"{name}.parquet", buffer.getvalue())
            paths.append(folder / f"{name}.parquet")
    return paths
