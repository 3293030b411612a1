"""What a comparison prints of groups."""

from __future__ import annotations

import pytest

from penstock.evaluate.text import comparison_text
from penstock.run.records.comparison import ComparedMetric, ComparedModel, ComparedTask, Comparison


def a_comparison(groups: int) -> Comparison:
    """Of a task with a figure for each of some groups, of which the first differs."""
    models = [ComparedModel(name, name, "gpt", {}, "model.safetensors", 8) for name in "AB"]
    figures = {
        f"subject {number}": {"mmlu.accuracy@0-shot": ComparedMetric(0.25, 0.5, 0.25, None, adjusted=0.01 + number)}
        for number in range(groups)
    }
    task = ComparedTask(100, {"mmlu.accuracy@0-shot": ComparedMetric(0.25, 0.5, 0.25, None, adjusted=0.01)}, figures)
    return Comparison(baseline=models[0], compressed=models[1], times_smaller=1.0, tasks={"mmlu": task})


@pytest.mark.parametrize(("groups", "shown"), [(20, 20), (57, 1)])
def test_of_many_groups_only_those_that_differ_are_printed(groups: int, shown: int) -> None:
    said = comparison_text(a_comparison(groups))
    assert sum(line.startswith("subject ") for line in said.splitlines()) == shown
    assert f"mmlu: 1 of {groups} groups differs" in said
    assert ("--json" in said) == (shown < groups)
