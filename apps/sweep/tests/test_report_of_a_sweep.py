"""The report's files: every cell is on them, with its state and its reason, and the page loads nothing."""

import re
from dataclasses import replace

import pytest

from penstock.run.records.sweep import SweepFigures
from penstock.sweep.documents import Documents
from penstock.sweep.report import write_report


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    write_report("allocation", made.figures, made.documents, 18, folder)
    return folder


def test_the_page_has_every_part_and_loads_nothing(made, folder):
    page = (folder / "sweep.html").read_text()
    for heading in (
        "What each axis does",
        "Pareto fronts",
        "Settings together",
        "Curves",
        "Do rankings agree?",
        "Cells",
        "Decisions",
        "Reproduce a row",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "failed: the loss is nan at step 3" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)


def test_the_summary_has_a_row_for_every_cell(made, folder):
    text = (folder / "summary.md").read_text()
    for cell in made.figures.cells:
        assert f"| {cell.cell} |" in text
    assert "reference point" in text
    assert "Kendall's tau" in text
    assert "    penstock train configs/allocation.yaml" in text


def test_tables_of_markdown_are_rectangular(folder):
    text = (folder / "summary.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") - line.count("\\|") for line in block.splitlines()}) == 1


def test_the_same_results_give_the_same_files(made, folder, tmp_path):
    write_report("allocation", made.figures, made.documents, 18, tmp_path)
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_a_sweep_that_has_only_begun_has_a_report(made, tmp_path, cells):
    few = made.figures.cells[:cells]
    begun = replace(made.figures, cells=few, rungs=[each for each in made.figures.rungs if each.cell in few])
    assert write_report("begun", begun, Documents(), 18, tmp_path).exists()


def test_names_with_markup_are_escaped(made, tmp_path):
    cell = replace(made.figures.cells[0], cell="<b>|a", reason="<i>", state="failed")
    page = write_report("x", SweepFigures("<b>|a", [cell], []), Documents(), 1, tmp_path).read_text()
    assert "<b>|a" not in page
    assert "\\|a" in (tmp_path / "summary.md").read_text()
