"""The report of a sweep: tables, summary and page, written together from one analysis."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from penstock.run.records.sweep import SweepFigures
from penstock.sweep.analysis import analyse
from penstock.sweep.documents import Documents
from penstock.sweep.page import write_sweep_page
from penstock.sweep.summary import write_summary
from penstock.sweep.tables import tables_of, write_parquet, write_tables


def write_report(name: str, figures: SweepFigures, documents: Documents, wanted: int, folder: Path) -> Path:
    """Writes `sweep.html`, `summary.md` and the CSV tables into the sweep's folder, and Parquet where pyarrow is
    installed; returns the page. `wanted` is the number of runs of the whole sweep."""
    analysis = analyse(figures, documents)
    tables = tables_of(analysis)
    write_tables(tables, folder / "tables")
    if importlib.util.find_spec("pyarrow"):
        write_parquet(tables, folder / "tables")
    write_summary(name, analysis, wanted, folder / "summary.md")
    return write_sweep_page(name, analysis, wanted, folder / "sweep.html")
