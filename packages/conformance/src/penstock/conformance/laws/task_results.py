"""Laws of what a task finds, of either contract."""

# pyright: basic
# (torch is untyped here)

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws import task_questions
from penstock.conformance.laws.task_parts import (
    BYTES,
    TASK,
    TableModel,
    a_context,
    evaluate,
    heldout_tokens,
    metrics_of,
    random_model,
    result_of,
)
from penstock.conformance.randomness import leaves_the_random_state
from penstock.hooks.contracts import TaskResult
from penstock.hooks.problems import ProblemError


@law(TASK, needs=(task_questions.samples_have_the_same_names,))
def the_result_is_a_task_result(subject: Subject) -> None:
    """The result is a `TaskResult` with at least one metric, and every metric has a name.

    Return `TaskResult({"name@convention": value}, details)`.
    """
    result = result_of(subject, random_model())
    expect(isinstance(result, TaskResult), f"the result is a {type(result).__name__}")
    expect(result.metrics, "no metrics")
    unnamed = [name for name in result.metrics if not isinstance(name, str) or not name.strip()]
    expect(not unnamed, f"metrics are called {unnamed}")


@law(TASK, needs=(the_result_is_a_task_result,))
def metrics_are_finite_floats(subject: Subject) -> None:
    """Every metric is a float, neither NaN nor infinite.

    Convert tensors with `.item()`, and check for means over nothing.
    """
    for name, value in result_of(subject, random_model()).metrics.items():
        expect(isinstance(value, float) and math.isfinite(value), f"{name} is {value!r}")


@law(TASK, needs=(the_result_is_a_task_result,))
def details_can_be_written(subject: Subject) -> None:
    """`details` is a mapping that strict JSON can represent.

    Convert arrays to lists, paths to strings, and NaN to None.
    """
    details = result_of(subject, random_model()).details
    try:
        json.dumps(dict(details), allow_nan=False)
    except (TypeError, ValueError) as error:
        expect(False, f"JSON refuses the details: {error}")


@law(TASK, needs=(metrics_are_finite_floats,))
def the_same_model_has_the_same_metrics(subject: Subject) -> None:
    """A second run gives the same metrics, with the same object or a new one.

    Seed random draws from a setting, and start every run fresh.
    """
    task, model = subject.build(), random_model()
    results = [metrics_of(subject, model, task=each) for each in (task, task, subject.build())]
    expect(results[0] == results[1], "the second run of one object gives different metrics")
    expect(results[0] == results[2], "another object gives different metrics")


@law(TASK, needs=(the_result_is_a_task_result,))
def no_global_random_numbers_are_drawn(subject: Subject) -> None:
    """Evaluation does not draw from the global generators of torch, numpy and Python.

    Use your own generators: evaluation must not change how training continues.
    """

    def act() -> None:
        before = torch.get_rng_state()
        result_of(subject, random_model())
        expect(torch.equal(torch.get_rng_state(), before), "the global state of torch has changed")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_011)  # a task that seeds with a number of its own does not leave this state
        leaves_the_random_state(act)


@law(TASK, needs=(the_result_is_a_task_result,))
def torch_keeps_its_settings(subject: Subject) -> None:
    """Gradient mode, default dtype and number of threads are unchanged after a run.

    Use context managers instead of `torch.set_...`.
    """
    model = random_model()
    with torch.enable_grad():
        before = _torch_settings()
        try:
            evaluate(subject, subject.build(), model, a_context())
            after = _torch_settings()
        finally:
            torch.set_default_dtype(before["default type"])
            torch.set_num_threads(before["threads"])
    changed = [name for name, value in after.items() if value != before[name]]
    expect(not changed, f"changed: {', '.join(changed)}")


@law(TASK, needs=(the_result_is_a_task_result,))
def heldout_tokens_are_left_alone(subject: Subject) -> None:
    """The array of held-out tokens is not changed.

    Copy it before shifting or masking in place.
    """
    tokens_N = heldout_tokens()
    result_of(subject, random_model(), heldout=tokens_N)
    expect(np.array_equal(tokens_N, heldout_tokens()), "the tokens have changed after the run")


@law(TASK, needs=(the_same_model_has_the_same_metrics, heldout_tokens_are_left_alone))
def tokens_of_any_type_are_read(subject: Subject) -> None:
    """Read-only held-out tokens of uint16 or uint32 give the same metrics as int64.

    Shards are memory-mapped as they are stored: convert a window at a time to int64.
    """
    tokens_N, model = heldout_tokens(), random_model()
    expected = metrics_of(subject, model, heldout=tokens_N)
    for kind in (np.uint16, np.uint32):
        stored_N = tokens_N.astype(kind)
        stored_N.flags.writeable = False
        expect(metrics_of(subject, model, heldout=stored_N) == expected, f"{kind.__name__} gives different metrics")


@law(TASK, needs=(the_result_is_a_task_result,))
def nothing_held_out_is_answered_or_refused(subject: Subject) -> None:
    """With zero or one held-out token there is a result, or a `ProblemError`.

    If the task needs held-out tokens, report that the run has none and what to do.
    """
    for tokens_N in (None, heldout_tokens()[:0], heldout_tokens()[:1]):
        try:
            result = result_of(subject, random_model(), heldout=tokens_N)
        except ProblemError:
            continue
        expect(isinstance(result, TaskResult), f"the result is a {type(result).__name__}")


@law(TASK, needs=(metrics_are_finite_floats,))
def a_uniform_model_has_the_figures_of_its_vocabulary(subject: Subject) -> None:
    """If all 256 bytes are equally likely, metrics named `bits_per_byte` are 8, and `token_perplexity` is 256.

    Check nats versus bits, and divide by the scored tokens and bytes. Give another convention another name.
    """
    expected = {"bits_per_byte": 8.0, "token_perplexity": 256.0}
    metrics = metrics_of(subject, TableModel(torch.zeros(BYTES, BYTES)).eval())
    named = [
        (name, value, figure) for name, value in metrics.items() for part, figure in expected.items() if part in name
    ]
    if not named:
        raise NotApplicable("no metric is called bits_per_byte or token_perplexity")
    for name, value, figure in named:
        expect(math.isclose(value, figure, rel_tol=0.01), f"{name} is {value}, not {figure}")


@law(TASK, needs=(the_same_model_has_the_same_metrics,))
def a_model_that_knows_the_text_scores_better(subject: Subject) -> None:
    """Metrics named `bits_per_byte` or `perplexity` are lower for a model that has learned what it is asked.

    Compare each prediction with the token after it, not with the token itself.
    """
    knowing = {name: value for name, value in metrics_of(subject, _taught_by(subject)).items() if _is_loss(name)}
    if not knowing:
        raise NotApplicable("no metric is called bits_per_byte or perplexity")
    ignorant = metrics_of(subject, TableModel(torch.zeros(BYTES, BYTES)).eval())
    for name, value in knowing.items():
        expect(value < ignorant[name], f"{name} is {value} for it, {ignorant[name]} for a model that knows nothing")


@law(TASK, needs=(the_same_model_has_the_same_metrics,), capability="every-token")
def the_sequence_length_moves_no_token(subject: Subject) -> None:
    """A model that looks one token back has the same metric values for any sequence length.

    Score every token except the first exactly once: start each window with the last token of the previous one.
    """
    model = random_model()
    figures = [list(metrics_of(subject, model, sequence_length=length).values()) for length in (16, 48)]
    seen = f"{figures[0]} by windows of 16, {figures[1]} by windows of 48"
    same = len(figures[0]) == len(figures[1]) and np.allclose(figures[0], figures[1], rtol=1e-5)
    expect(same, seen)


def _taught_by(subject: Subject) -> TableModel:
    """A model that has counted what follows what in the tokens that the task puts to it."""
    pupil = TableModel(torch.zeros(BYTES, BYTES)).eval()
    result_of(subject, pupil)
    return TableModel(torch.from_numpy(np.log(pupil.asked_VV + 1e-3)).float()).eval()


def _is_loss(name: str) -> bool:
    return "bits_per_byte" in name or "perplexity" in name


def _torch_settings() -> dict[str, Any]:
    return {
        "gradients": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


LAWS = laws_in(globals())
