"""The same model, asked by us and by lm-evaluation-harness: our runner on its tasks, its evaluator on our model, and
its own backend for transformers give the same answers and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest
from gpt2_twins import POSITIONS, Twins, write_beginning_twins
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from local_tasks import write_tasks
from penstock_lm_eval.model import PenstockModel
from penstock_lm_eval.opening import Opened
from penstock_lm_eval.task import LmEval

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.runner import prepare
from penstock.hooks.contracts import LikelihoodAnswer, TaskContext, TaskResult

SCORED = ["choose", "end", "read"]
TASKS = [*SCORED, "generate"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def harness(model: Any, folder: Path, *names: str, **options: Any) -> dict[str, Any]:
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    evaluated: Any = simple_evaluate
    return evaluated(model, tasks=[*names], task_manager=manager, bootstrap_iters=0, **options)


def answers_in(results: Mapping[str, Any], name: str) -> list[list[Any]]:
    """What the model answered to each question."""
    samples = {each["doc_id"]: [response[0] for response in each["resps"]] for each in results["samples"][name]}
    return [samples[number] for number in sorted(samples)]


def apart(one: Any, other: Any) -> float:
    """How far two answers are apart in nats; first choices and texts have to be equal. Of a page, the harness adds
    hundreds of nats in fp32, which is 1e-7 of them."""
    if isinstance(one, str):
        assert one == other
        return 0.0
    if isinstance(one, tuple):
        assert one[1] == other[1]
        return abs(one[0] - other[0])
    return max(0.0, abs(one - other) - 1e-7 * abs(other))


def farthest(found: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> float:
    pairs = [
        (one, other)
        for mine, its in zip(answers_in(found, name), answers_in(expected, name), strict=True)
        for one, other in zip(mine, its, strict=True)
    ]
    return max(apart(*pair) for pair in pairs)


def figures_in(results: Mapping[str, Any], name: str) -> dict[str, float]:
    """The harness's figures by metric and filter."""
    return {
        metric: value
        for metric, value in results["results"][name].items()
        if isinstance(value, float) and "stderr" not in metric
    }


def ours(opened: Opened, folder: Path, name: str, **options: Any) -> TaskResult:
    """What `penstock evaluate --task lm-eval:NAME` computes."""
    context = TaskContext(opened.tokenizer, None, opened.sequence_length, **options)
    return prepare(LmEval(name, folder), context).run(opened.model)


def named(name: str, column: str, shots: int = 0) -> str:
    metric, _, filtered = column.partition(",")
    before = "" if filtered == "none" else f"{filtered}-"
    return f"{name}.{metric}@{before}lm-eval-{version('lm_eval')}-{shots}-shot"


@pytest.fixture(scope="module")
def expected(twins: Twins, folder: Path) -> dict[str, Any]:
    return harness(twins.theirs(), folder, *TASKS)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_every_request_has_the_answer_of_the_harness_in_any_batch(twins, folder, expected, batch_size):
    found = harness(PenstockModel(twins.ours(batch_size=batch_size)), folder, *TASKS)
    for name in TASKS:
        assert farthest(found, expected, name) <= 1e-5
        assert figures_in(found, name) == pytest.approx(figures_in(expected, name), rel=1e-6)


def test_in_float64_every_request_has_the_answer_of_the_harness(twins, folder):
    found = harness(PenstockModel(twins.ours(dtype="fp64")), folder, *SCORED)
    expected = harness(twins.theirs("float64", batch_size=4), folder, *SCORED)
    for name in SCORED:
        assert farthest(found, expected, name) <= 1e-9


def test_a_token_that_begins_texts_stands_before_them_as_in_the_harness(tmp_path, folder):
    llama = write_beginning_twins(tmp_path)
    found = harness(PenstockModel(llama.ours(dtype="fp64")), folder, *TASKS)
    expected = harness(llama.theirs("float64"), folder, "choose", "end", "generate")
    # of a page, the harness asks how likely its first token is after itself, unless told not to put it there
    expected_pages = harness(llama.theirs("float64", add_bos_token=False), folder, "read")
    for name in TASKS:
        assert farthest(found, expected_pages if name == "read" else expected, name) <= 1e-9


@pytest.mark.parametrize("name", TASKS)
def test_its_tasks_have_its_figures_in_our_runner(twins, folder, expected, name):
    result = ours(twins.ours(), folder, name)
    figures = {named(name, column): value for column, value in figures_in(expected, name).items()}
    assert dict(result.metrics) == pytest.approx(figures, rel=1e-6)
    assert result.details["items"] == len(answers_in(expected, name))


@pytest.mark.parametrize("name", [*SCORED, "mill"])
def test_estimates_say_how_metrics_come_from_the_columns(twins, folder, name):
    task, context, answers = LmEval(name, folder), TaskContext(twins.ours().tokenizer, None, POSITIONS), AnswerStore()
    prepared = prepare(task, context)
    prepared.run(twins.ours().model, answers)
    scores = prepared.scored(answers).scores
    result = task.total(scores, context)
    assert result.estimates
    for metric, estimate in result.estimates.items():
        weight = len(scores[estimate.total]) if estimate.weight is None else scores[estimate.weight].sum()
        value = estimate.scale * scores[estimate.total].sum() / weight
        assert (math.exp(value) if estimate.exponential else value) == pytest.approx(result.metrics[metric], rel=1e-12)


def test_questions_with_choices_say_how_sure_the_model_is(twins, folder):
    context, answers = TaskContext(twins.ours().tokenizer, None, POSITIONS), AnswerStore()
    prepared = prepare(LmEval("mill", folder), context)
    prepared.run(twins.ours().model, answers)
    for each in prepared.answered(answers):
        likelihoods = [math.exp(-answer.nll) for answer in cast("list[LikelihoodAnswer]", each.answers)]
        assert each.samples[0]["confidence"] == pytest.approx(max(likelihoods) / sum(likelihoods))
        assert each.samples[0]["right"] == each.samples[0]["acc,none"]


def test_a_group_has_its_own_figures_and_those_of_its_tasks(twins, folder):
    its, result = harness(PenstockModel(twins.ours()), folder, "mill"), ours(twins.ours(), folder, "mill")
    assert dict(result.metrics) == pytest.approx(
        {named("mill", column): value for column, value in figures_in(its, "mill").items()}, rel=1e-12
    )
    for task in ("choose", "choose_again"):
        alone = {name.partition("@")[0]: value for name, value in result.groups[task].items()}
        figures = {f"mill.{column.partition(',')[0]}": value for column, value in figures_in(its, task).items()}
        assert alone == pytest.approx({name: figures[name] for name in alone}, rel=1e-12)


@pytest.mark.parametrize("shots", [1, 2])
def test_examples_are_those_of_the_harness(twins, folder, shots):
    its = harness(PenstockModel(twins.ours()), folder, "choose", num_fewshot=shots)
    context = TaskContext(twins.ours().tokenizer, None, POSITIONS, shots=shots, fit_shots=False)
    asked = {
        each.item.document.number: [instance.args for instance in each.item.document.instances]
        for each in prepare(LmEval("choose", folder), context).asked
    }
    assert asked == {each["doc_id"]: list(map(tuple, each["arguments"])) for each in its["samples"]["choose"]}
    figures = {named("choose", column, shots): value for column, value in figures_in(its, "choose").items()}
    assert dict(ours(twins.ours(), folder, "choose", shots=shots).metrics) == pytest.approx(figures, rel=1e-12)
