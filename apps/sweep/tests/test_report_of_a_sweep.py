"""The report's files: every cell is on them, with its state and its reason, and the page loads nothing."""

import re
from dataclasses import replace

import pytest

from penstock.run.records.sweep import MissingRun, SweepFigures, SweptRun
from penstock.sweep.analysis import analyse
from penstock.sweep.compare import STAND_IN, compare, stand_in
from penstock.sweep.compare import text as printed
from penstock.sweep.documents import Documents
from penstock.sweep.report import write_report
from penstock.sweep.sections import cells_table, effects_caption, front_caption, summary


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


def swept(cell, seed, bits):
    return SweptRun(bits, tokens=100, seconds=1.0, active_parameters=7, flops=9, cell=cell, seed=seed)


def test_the_best_finalist_stands_in_for_a_baseline_without_runs_to_the_end(made, tmp_path):
    rows = [swept(name, seed, bits + seed) for name, bits in (("b", 2.0), ("c", 1.9)) for seed in range(3)]
    rows.append(swept("d", 0, 1.0))  # one lucky seed is not compared with
    assert stand_in(rows, "a") == "c"
    assert stand_in(rows, "b") == "b"
    assert stand_in([], "a") == "a"
    found = {cell.cell: cell for cell in compare(rows, "a", stand_in(rows, "a"))}
    assert found["c"].verdict == STAND_IN
    assert found["b"].difference is not None
    assert found["b"].difference.mean == pytest.approx(0.1)
    assert found["b"].verdict == "worse (n = 3)"
    figures = SweepFigures("a", list(found.values()), rows, compared_with="c")
    write_report("stood", figures, Documents(), 9, tmp_path)
    for text in (printed(figures), (tmp_path / "summary.md").read_text(), (tmp_path / "sweep.html").read_text()):
        assert "a, has no run to the end, so differences are from c" in text


def test_reasons_and_captions_say_what_is_so(made):
    missing = [MissingRun("a", seed, "stopped: it was behind") for seed in range(3)]
    missing.append(MissingRun("a", 3, "not run yet"))
    text = summary(replace(made.figures, missing=missing), 4)
    assert text.count("it was behind") == 1
    assert "a with seeds 0, 1 and 2 stopped: it was behind." in text
    found = analyse(made.figures, made.documents)
    assert "Without a result: 45 %, 2.0" in effects_caption(found)
    front = found.objective_fronts[0]
    assert "reference point (1." in front_caption(front)
    equal = replace(front, members=tuple(replace(each, values=(1.5, 1e6)) for each in front.members))
    assert "reference point" not in front_caption(equal)  # equal cells span no box
    one = replace(front, members=tuple(replace(each, values=(1.5, each.values[1])) for each in front.members))
    assert "reference point" not in front_caption(one)  # the best cell covers all of a line


def test_a_long_reason_stands_once_and_one_cell_is_one_cell(made):
    reason = "after 256 tokens: 0.06 behind"
    cell = replace(made.figures.cells[0], state="stopped", reason=reason, verdict=f"stopped: {reason}")
    figures = replace(made.figures, cells=[cell], phases=[replace(made.figures.phases[0], cells=[cell.cell])])
    (row,) = cells_table(analyse(figures, Documents())).rows
    assert [reason in each for each in row].count(True) == 1
    assert "Short phase: 1 cell, " in summary(figures, 1)
    assert "1 seed." in summary(figures, 1)
