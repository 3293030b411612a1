"""Tidy tables: what is written is read back, by other readers."""

import csv
import shlex
import sys
from dataclasses import replace

import pytest

from penstock.hooks.problems import ProblemError
from penstock.sweep.analysis import analyse
from penstock.sweep.tables import reproduce_lines, tables_of, write_parquet, write_tables


@pytest.fixture(scope="module")
def tables(made):
    return tables_of(analyse(made.figures, made.documents))


def test_every_row_of_a_table_has_the_same_columns(tables):
    for rows in tables.values():
        assert len({tuple(row) for row in rows}) == 1


def test_there_is_a_row_for_each_cell_result_and_rank(made, tables):
    assert [row["cell"] for row in tables["cells"]] == [cell.cell for cell in made.figures.cells]
    assert len(tables["results"]) == len(made.results)
    assert {row["phase"] for row in tables["ranks"]} == {"short", "final"}


def test_csv_is_read_back_in_full_precision(tables, tmp_path):
    paths = write_tables(tables, tmp_path)
    assert [path.name for path in paths] == ["cells.csv", "results.csv", "ranks.csv"]
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows, tables["cells"], strict=True):
        assert row["bits_per_byte"] == "" if expected["bits_per_byte"] is None else float(row["bits_per_byte"])
        assert row["axis.share"] == expected["axis.share"]
        assert row["on_front"] in ("true", "false", "")
    assert float(rows[4]["bits_per_byte"]) == tables["cells"][4]["bits_per_byte"]


def test_parquet_has_the_same_rows_with_types(tables, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tables, tmp_path)
    for name, rows in tables.items():
        assert parquet.read_table(tmp_path / f"{name}.parquet").to_pylist() == rows
    schema = parquet.read_schema(tmp_path / "cells.parquet")
    assert str(schema.field("parameters").type) == "int64"
    assert str(schema.field("on_front").type) == "bool"


def test_parquet_without_pyarrow_names_the_extra(tables, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ProblemError, match=r"penstock-sweep\[parquet\]"):
        write_parquet(tables, tmp_path)


def test_a_line_reproduces_the_run_of_the_row(tables):
    finalist = next(row for row in tables["cells"] if row["phase"] == "final")
    first, *others = [shlex.split(line) for line in finalist["reproduce"].split(" && ")]
    assert [words[-1] for words in (first, *others)] == ["seed=0", "seed=1", "seed=2"]
    words = first
    assert words[:3] == ["penstock", "train", "configs/allocation.yaml"]
    assert "model.plan={embedding_share: 0.35}" in words
    stopped = next(row for row in tables["cells"] if row["state"] == "stopped")
    assert shlex.split(stopped["reproduce"])[-2:] == ["train.tokens=400000", "--until=200000"]


def test_a_cell_with_tokens_of_its_own_is_reproduced_with_those(made):
    cells = [replace(cell, run_tokens=300_000) for cell in made.figures.cells if cell.state == "stopped"]
    for cell in cells:
        (line,) = reproduce_lines(made.figures, cell)
        assert shlex.split(line)[-2:] == ["train.tokens=300000", "--until=200000"]
