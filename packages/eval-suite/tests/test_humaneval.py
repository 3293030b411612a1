"""HumanEval: its prompts, stops and programs, its verdicts, and pass@k as the share of drawings that is counted."""

import gzip
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from penstock.eval_suite.config import HumanEvalConfig
from penstock.eval_suite.humaneval import STOPS, HumanEval
from penstock.eval_suite.runner import prepare, run_task
from penstock.hooks import ProblemError
from penstock.hooks.contracts import GenerateAnswer, Item, TaskContext

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")

ADD = {
    "task_id": "Mill/0",
    "prompt": "def add(a, b):\n",
    "test": "def check(f):\n    assert f(1, 2) == 3",
    "entry_point": "add",
}


def a_file(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def context(tokenizer: Any) -> TaskContext:
    """At the best level that the machine gives, without the network."""
    return TaskContext(tokenizer, None, 2048)


def first_item(task: HumanEval, context: TaskContext) -> Item:
    try:
        return next(task.items(context))
    except ProblemError as error:
        if error.problems[0].code == "no-sandbox":
            pytest.skip(str(error))
        raise


def scored(task: HumanEval, context: TaskContext, *texts: str) -> dict[str, float]:
    (sample,) = task.score(first_item(task, context), [GenerateAnswer(text) for text in texts], context)
    return dict(sample)


def test_a_prompt_is_the_problems_own_and_ends_at_the_papers_stops(tmp_path: Path, context: TaskContext) -> None:
    task = HumanEval(a_file(tmp_path / "one.jsonl", ADD), samples=2, temperature=0.8, tokens=9)
    one, other = task.requests(first_item(task, context), context)
    assert context.tokenizer.decode(one.prompt) == ADD["prompt"]
    assert (one.stop, one.tokens, one.temperature) == (STOPS, 9, 0.8)
    assert STOPS == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert one.seed != other.seed


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        ("    return a + b", "passed", ""),
        ("    return a - b", "failed", "AssertionError (line 4)"),
        ("    return a +", "failed", "SyntaxError: invalid syntax (program.py, line 2)"),
        ("    return a + b\nimport os\nos._exit(0)", "ended early", None),
        ("    while True: pass", "timed out", None),
        ("    while True: print('x' * 9999)", "too much output", None),
        ("    return '\ud800'", "not a program", None),
    ],
)
def test_an_answer_has_a_verdict_and_its_reason(
    tmp_path: Path, context: TaskContext, answer: str, outcome: str, reason: str | None
) -> None:
    task = HumanEval(a_file(tmp_path / "one.jsonl", ADD), seconds=0.5)
    item = first_item(task, context)
    (verdict,) = task.verdicts(item, [GenerateAnswer(answer)], context)
    assert verdict.outcome == outcome
    assert verdict.reason == reason if reason is not None else verdict.reason


@pytest.mark.parametrize("test", ["", "  \n", None])
def test_a_problem_without_tests_is_solved_by_nothing(tmp_path: Path, context: TaskContext, test: str | None) -> None:
    task = HumanEval(a_file(tmp_path / "one.jsonl", {**ADD, "test": test}))
    item = first_item(task, context)
    (verdict,) = task.verdicts(item, [GenerateAnswer("    return a + b")], context)
    assert (verdict.outcome, verdict.reason) == ("failed", "the problem has no tests")


def test_pass_at_k_is_the_share_of_drawings_with_a_right_answer(tmp_path: Path, context: TaskContext) -> None:
    texts = ["    return a + b", "    return a", "    return b + a", "    return b", "    return 3"]
    right = [True, False, True, False, True]
    task = HumanEval(a_file(tmp_path / "one.jsonl", ADD), samples=5, k=(1, 2, 4), temperature=0.8)
    sample = scored(task, context, *texts)
    for k in (1, 2, 4):
        drawings = [any(drawing) for drawing in itertools.combinations(right, k)]
        assert sample[f"pass_{k}"] == pytest.approx(np.mean(drawings), abs=1e-15)
    assert (sample["passed"], sample["failed"]) == (3, 2)


def test_a_name_has_the_level_the_size_and_the_sampling(
    tmp_path: Path, context: TaskContext, uniform_model: Any
) -> None:
    path = tmp_path / "two.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps({**ADD, "task_id": f"{n}"}) + "\n" for n in range(2)).encode()))
    task = HumanEval(path, samples=2, k=(1, 2), temperature=0.5, tokens=4)
    first_item(task, context)
    result = run_task(task, uniform_model, context)
    convention = "full-sandbox-of-2-problems-2-samples-4-tokens-temperature-0.5"
    assert result.metrics == {f"humaneval.pass_1@{convention}": 0.0, f"humaneval.pass_2@{convention}": 0.0}
    assert result.details["sandbox"] == "full"
    assert sum(result.details["outcomes"].values()) == 4
    assert result.intervals.keys() == result.metrics.keys()


def test_a_row_without_a_column_is_named(tmp_path: Path, context: TaskContext) -> None:
    task = HumanEval(a_file(tmp_path / "bad.jsonl", {"prompt": "x", "test": "y"}))
    with pytest.raises(ProblemError, match=r"bad.jsonl:1: unknown column 'entry_point'"):
        first_item(task, context)


def test_shots_and_chats_are_refused(tmp_path: Path, context: TaskContext) -> None:
    from dataclasses import replace

    task = HumanEval(a_file(tmp_path / "one.jsonl", ADD))
    with pytest.raises(ProblemError, match="no few-shot examples"):
        prepare(task, replace(context, shots=2))


def test_settings_that_contradict_each_other_are_named() -> None:
    with pytest.raises(ValidationError, match="must be 1 at temperature 0, not 2"):
        HumanEvalConfig(samples=2)
    with pytest.raises(ValidationError, match="has 10, and `samples` of each problem is 1"):
        HumanEvalConfig(k=(1, 10))
    assert HumanEvalConfig(samples=20, k=(1, 10), temperature=0.8).k == (1, 10)
