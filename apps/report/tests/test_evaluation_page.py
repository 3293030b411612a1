"""The page of an evaluation, from a record that is fabricated here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from penstock.hooks.contracts import Interval
from penstock.hooks.problems import ProblemError
from penstock.report.answers import task_views
from penstock.report.evaluation import write_evaluation
from penstock.run.records.evaluation import (
    Against,
    Evaluation,
    FigureChange,
    Provenance,
    Question,
    Reliability,
    ReliabilityBin,
    TaskFigures,
)

METRIC = "mmlu.accuracy@5-shot"


def interval(value: float) -> Interval:
    return Interval(value - 0.09, value + 0.09, 0.045, 100, "Wilson score")


def record() -> Evaluation:
    groups = {"anatomy": 0.35, "astronomy": 0.55, "virology": 0.45}
    task = TaskFigures(
        {METRIC: 0.45, "mmlu.f1": 0.25},
        {"items": 300, "no_interval": {"mmlu.f1": "fewer than 50 samples"}},
        {METRIC: interval(0.45)},
        groups={group: {METRIC: value} for group, value in groups.items()},
        group_intervals={group: {METRIC: interval(value)} for group, value in groups.items()},
        worst=[
            Question(f"test/{number}", "Which gate? <script>", ["' B': 0.05 nats"], {"right": 0.0}, "anatomy", "A")
            for number in range(5)
        ],
        reliability=Reliability(
            0.123, [ReliabilityBin(0.4, 0.5, 200, 0.45, 0.35), ReliabilityBin(0.9, 1, 100, 0.95, 0.9)]
        ),
        provenance=Provenance(
            {"model.safetensors": "cd" * 32},
            None,
            "34" * 32,
            "56" * 32,
            1024,
            "fp64",
            1,
            True,
            0,
            depends_on_batch=["ExpertChoice in layer 1"],
        ),
    )
    change = FigureChange("mmlu", METRIC, 0.5, 0.45, -0.05, Interval(-0.09, -0.01, 0.02, 300, "paired"), True)
    return Evaluation("gpt2", {"mmlu": task}, ["mmlu"], against=Against("earlier.json", "gpt2", [change]))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """An evaluation.json, and a file of samples."""
    value = record().to_json()
    alone, samples = tmp_path / "evaluation.json", tmp_path / "samples.jsonl"
    alone.write_text(json.dumps(value, indent=2))
    samples.write_text(json.dumps({"evaluation": value}) + '\n{"task": "mmlu", "scores": [{"right": 0.0}]}\n')
    return alone, samples


def test_the_page_shows_scores_groups_reliability_and_questions(files, tmp_path) -> None:
    page = write_evaluation(files[0], tmp_path / "page.html").read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    for shown in (
        METRIC,
        "0.360 to 0.540",
        "0.350 (0.260 to 0.440)",
        "calibration error is 12",
        "too sure",
        "earlier.json",
        "-0.050 (-0.090 to -0.010)",
        "none: fewer than 50 samples",
    ):
        assert shown in re.sub(r"\s+", " ", text), shown
    for shown in (
        "ExpertChoice in layer 1",
        "each text alone, to the bit",
        "cdcdcdcdcdcd",
        "right answer: A",
        "2 more",
    ):
        assert shown in text, shown
    assert "could not be read" not in text
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("<svg viewBox") == 5  # the mark, and two charts in two sizes


def test_a_file_of_samples_has_the_page_of_its_evaluation(files, tmp_path) -> None:
    first, second = (write_evaluation(file, tmp_path / f"{at}.html").read_bytes() for at, file in enumerate(files))
    assert first == second


def test_figures_without_answers_have_nothing_more_to_show() -> None:
    assert task_views(Evaluation("gpt2", {"text": TaskFigures({"text.bits_per_byte@a": 1.0})}), "a") == []
    assert task_views(None, "a") == []


@pytest.mark.parametrize("text", ["", "no JSON", "{}", '{"tasks": {}}', '{"evaluation": 3}'])
def test_a_file_without_an_evaluation_is_named(tmp_path, text: str) -> None:
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ProblemError, match=r"wrong\.json"):
        write_evaluation(tmp_path / "wrong.json", tmp_path / "page.html")
