"""The interval of points lost that `tests/benchmarks/ledger.py` prints: over seeds and examples at once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def points() -> ModuleType:
    path = Path(__file__).parent / "benchmarks" / "points_lost.py"
    spec = importlib.util.spec_from_file_location("points_lost", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def drawn(rng: np.random.Generator, seeds: int, examples: int, lost: float) -> tuple[list, list]:
    """Right and wrong answers of two models: examples are hard for all seeds alike, and seeds differ in skill."""
    hard_N, skill_S = rng.normal(size=examples), rng.normal(scale=0.1, size=seeds)
    chance = np.clip(0.75 + 0.1 * hard_N[None] + skill_S[:, None] * 0.2, 0.02, 0.98)
    weight_N = np.ones(examples)
    before = (rng.random((seeds, examples)) < chance).astype(float)
    after = (rng.random((seeds, examples)) < chance - lost).astype(float)
    return [(each, weight_N) for each in before], [(each, weight_N) for each in after]


def test_the_interval_covers_the_truth_as_often_as_it_says_or_more(points):
    rng, covered, repeats = np.random.default_rng(0), 0, 300
    for _ in range(repeats):
        loss = points.points_lost(*drawn(rng, seeds=5, examples=400, lost=0.03))
        covered += abs(loss.mean - 3.0) <= loss.half_width + 0.15  # chances are cut off at the ends
    assert covered / repeats >= 0.93


def test_f1_is_lost_like_the_figure_itself(points):
    rng = np.random.default_rng(1)
    gold_N = rng.integers(0, 5, 300).astype(float)
    forms = [[np.minimum(gold_N, rng.integers(0, most, 300)) for _ in range(3)] for most in (5, 3)]
    (before, after) = ([(2 * right_N, gold_N + right_N + 1) for right_N in form] for form in forms)
    f1 = [[value.sum() / weight.sum() for value, weight in form] for form in (before, after)]
    loss = points.points_lost(before, after)
    assert loss.mean == pytest.approx(100 * (np.mean(f1[0]) - np.mean(f1[1])))
    # The linear form predicts what leaving out one example does to the figure.
    value_N, weight_N = before[0]
    kept = np.arange(300) != 7
    exact = value_N[kept].sum() / weight_N[kept].sum() - f1[0][0]
    influence_N = points._influence(value_N, weight_N)
    assert exact == pytest.approx(-influence_N[7] / 300, rel=0.02)


def test_more_seeds_decide_what_examples_do_not_stand_in_the_way_of(points):
    loss = points.Loss(1.0, 1.5, of_a_seed=1.0, of_examples=0.01)
    needed = loss.seeds_to_decide(2.0)
    assert points._half_width(needed, 1.0, 0.01) < 1.0 <= points._half_width(needed - 1, 1.0, 0.01)
    assert points.Loss(1.9, 1.5, of_a_seed=1.0, of_examples=0.01).seeds_to_decide(2.0) is None


@pytest.mark.parametrize(("mean", "said"), [(0.5, "holds"), (3.5, "fails"), (1.8, "not decided")])
def test_one_of_three_sentences_is_said(points, mean, said):
    assert points.verdict(points.Loss(mean, 1.0, of_a_seed=1.0, of_examples=0.05), 2.0).startswith(said)
