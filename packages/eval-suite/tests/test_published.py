"""Published figures are found by the tasks that they name, and compared by name."""

import hashlib
import json
import re

import pytest

from penstock.eval_suite.published import FIGURES, beside, tasks_of
from penstock.eval_suite.runner import run_task
from penstock.hooks import Registry
from penstock.hooks.contracts import TaskContext, TaskResult


def test_ours_stands_beside_the_published_figure_of_the_same_name():
    rows = list(
        beside("gpt2", [TaskResult({"lambada.accuracy@openai-last-word": 0.32556}), TaskResult({"other@x": 1.0})])
    )
    assert len(rows) == len(FIGURES["gpt2"])
    measured = [row for row in rows if row.ours is not None]
    (row,) = measured
    assert row.published.value == 0.3256
    assert row.difference == pytest.approx(-4e-5)
    assert row.relative == pytest.approx(-4e-5 / 0.3256)
    assert row.agrees is True
    assert {(row.difference, row.relative, row.agrees) for row in rows if row.ours is None} == {(None, None, None)}


def test_a_figure_that_differs_in_its_last_digit_does_not_agree():
    (row,) = [row for row in beside("gpt2", [TaskResult({"lambada.perplexity@openai-last-word": 40.07})]) if row.ours]
    assert row.agrees is False


def test_a_part_of_a_task_is_not_compared():
    assert not any(
        row.ours for row in beside("gpt2", [TaskResult({"lambada.accuracy@openai-last-word-first-100": 0.3256})])
    )


def test_the_tasks_find_metrics_of_the_published_names(uniform_model, tokenizer, tmp_path):
    """On other data, which the names of figures say: WikiText's by a hash, LAMBADA's by a number of passages."""
    text = " \n = Mill = \n \n It stood still . \n"
    other = hashlib.sha256(text.encode()).hexdigest()[:8]
    (tmp_path / "wiki.test.raw").write_text(text)
    (tmp_path / "lambada_test.jsonl").write_text(json.dumps({"text": "the gate feeds a turbine"}) + "\n")
    files = {
        "wikitext2": {"path": str(tmp_path / "wiki.test.raw"), "sha256": None},
        "lambada": {"path": str(tmp_path / "lambada_test.jsonl")},
    }
    registry, results = Registry.discover(), []
    for settings in tasks_of("gpt2"):
        task = registry.build("task", {**settings, **files[settings["use"]]})
        result = run_task(task, uniform_model, TaskContext(tokenizer, None, 1024))
        named = {re.sub(f"-({other}|of-1-passages)", "", name): value for name, value in result.metrics.items()}
        results.append(TaskResult(named))
    assert [row.published.metric for row in beside("gpt2", results) if row.ours is None] == []
