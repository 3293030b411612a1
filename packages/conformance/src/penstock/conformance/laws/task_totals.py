"""Laws of contract 2 of tasks: how samples become metrics, and what a run can ask for."""

# pyright: basic
# (torch is untyped here)

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from penstock.conformance.asking import scores_of
from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws import task_results
from penstock.conformance.laws.task_parts import TASK, a_context, random_model, require_contract, result_of
from penstock.conformance.laws.task_questions import asked
from penstock.hooks.contracts import Estimate
from penstock.hooks.problems import ProblemError


@law(TASK, needs=(task_results.the_result_is_a_task_result,))
@torch.enable_grad()  # ends what a task leaves switched off
def metrics_name_their_convention(subject: Subject) -> None:
    """Contract 2: every metric is called `NAME@CONVENTION`.

    Name after the @ what distinguishes this figure from others of the same name: the variant, the windows, the shots.
    """
    require_contract(subject, 2)
    bare = [name for name in result_of(subject, random_model()).metrics if not all(name.partition("@"))]
    expect(not bare, f"metrics without a convention: {', '.join(bare)}")


@law(TASK, needs=(task_results.the_same_model_has_the_same_metrics,))
@torch.enable_grad()  # ends what a task leaves switched off
def the_order_of_samples_does_not_matter(subject: Subject) -> None:
    """Contract 2: `total` does not depend on the order of samples.

    Sum or average over samples; return what belongs together as one sample.
    """
    require_contract(subject, 2)
    task, scores = subject.build(), scores_of(subject.build(), random_model(), a_context())
    metrics = task.total(scores, a_context()).metrics
    turned = task.total({name: column_N[::-1].copy() for name, column_N in scores.items()}, a_context()).metrics
    for name, value in metrics.items():
        expect(name in turned and math.isclose(value, turned[name], rel_tol=1e-9), f"{name} has a different value")


@law(TASK, needs=(the_order_of_samples_does_not_matter,))
@torch.enable_grad()  # ends what a task leaves switched off
def samples_drawn_anew_have_the_same_metrics(subject: Subject) -> None:
    """Contract 2: `total` of samples drawn with replacement has the same metric names.

    Name metrics by context and settings, not by the number of samples: the interval of a metric without an estimate
    is found by drawing samples anew.
    """
    require_contract(subject, 2)
    task, scores = subject.build(), scores_of(subject.build(), random_model(), a_context())
    samples = len(next(iter(scores.values())))
    names = task.total(scores, a_context()).metrics.keys()
    for repeated in (np.zeros(samples, dtype=np.int64), np.arange(samples) // 2):
        drawn = {name: column_N[repeated] for name, column_N in scores.items()}
        expect(task.total(drawn, a_context()).metrics.keys() == names, "repeated samples have different metric names")


@law(TASK, needs=(samples_drawn_anew_have_the_same_metrics,))
@torch.enable_grad()  # ends what a task leaves switched off
def an_estimate_is_its_metric(subject: Subject) -> None:
    """Contract 2: every `Estimate` of a result is of one of its metrics and gives its value, of all samples and of
    samples drawn anew.

    Name the columns that the metric is made of, with its scale: the interval is found from the estimate alone.
    """
    require_contract(subject, 2)
    task, scores = subject.build(), scores_of(subject.build(), random_model(), a_context())
    samples = len(next(iter(scores.values())))
    for picked in (np.arange(samples), np.zeros(samples, dtype=np.int64), np.arange(samples) // 2):
        drawn = {name: column_N[picked] for name, column_N in scores.items()}
        result = task.total(drawn, a_context())
        for name, estimate in result.estimates.items():
            expect(name in result.metrics, f"there is an estimate of {name}, which is no metric")
            lacking = {estimate.total, estimate.weight} - {None, *drawn}
            expect(not lacking, f"the estimate of {name} is made of {', '.join(map(str, lacking))}, which is no score")
            value = _value_of(estimate, drawn)
            if value is None:
                continue
            same = math.isclose(value, result.metrics[name], rel_tol=1e-9, abs_tol=1e-12)
            expect(same, f"{name} is {result.metrics[name]}, but its estimate {value}")


def _value_of(estimate: Estimate, scores: Mapping[str, Any]) -> float | None:
    """None where nothing is counted: an estimate does not say what the metric is then."""
    total_N = scores[estimate.total]
    weight = len(total_N) if estimate.weight is None else scores[estimate.weight].sum()
    if weight == 0:
        return None
    value = estimate.scale * float(total_N.sum()) / float(weight)
    return (math.exp(value) if value < 700 else math.inf) if estimate.exponential else value


@law(TASK, needs=(task_results.the_result_is_a_task_result,))
@torch.enable_grad()  # ends what a task leaves switched off
def shots_are_shown_or_refused(subject: Subject) -> None:
    """Contract 2: with two shots the requests differ from those with none, or there is a `ProblemError`.

    Refuse a number of shots that the task ignores.
    """
    require_contract(subject, 2)
    try:
        shown = asked(subject, shots=2, fit_shots=False)
    except ProblemError:
        return
    expect(shown != asked(subject, shots=0), "two shots do not change the requests")


LAWS = laws_in(globals())
