"""The planner meets its tolerances, or says what is nearest."""

import itertools
import re

import pytest

from penstock.hooks.problems import ProblemError
from penstock.moe_core.glm import counts as glm
from penstock.moe_core.gpt import counts as gpt
from penstock.moe_core.plan.request import PlanRequest
from penstock.moe_core.plan.search import Architecture, base_sizes, forced, planned
from penstock.moe_core.plan.weights import table_share, total

MISSION = list(itertools.product((0.25, 0.35, 0.45), (2.0, 2.66, 3.0, 4.0)))


def architecture(request, vocabulary, count=glm.weights):
    return Architecture(count, base_sizes(request, vocabulary), free_attention=count is glm.weights)


@pytest.mark.parametrize(("share", "glu"), MISSION)
@pytest.mark.parametrize(
    ("vocabulary", "free"),
    [(16_000, {}), (0, {"vary": "vocabulary", "layers": 8}), (24_000, {"vary": "factor", "layers": 8})],
)
def test_every_cell_of_ten_million_parameters_is_met(share, glu, vocabulary, free):
    request = PlanRequest(parameters=10_000_000, embedding_share=share, glu=glu, **free)
    shape = planned(request, architecture(request, vocabulary))
    weights = glm.weights(shape.sizes)
    assert abs(total(weights) / 10e6 - 1) <= 0.005
    assert abs(table_share(weights) - share) <= 0.01
    assert abs(shape.sizes.feed_forward / shape.sizes.width / glu - 1) <= 0.03
    assert shape.sizes.width % 32 == shape.sizes.feed_forward % 8 == 0
    assert shape.sizes.head_size in (32, 64)
    assert shape.sizes.heads % shape.sizes.key_value_heads == 0
    assert shape.sizes.layers == free.get("layers", shape.sizes.layers)


def test_experts_share_the_expansion_that_a_token_uses():
    request = PlanRequest(parameters=10_000_000, embedding_share=0.25, glu=2.66, experts=8)
    sizes = planned(request, architecture(request, 16_000)).sizes
    assert (sizes.experts, sizes.experts_per_token, sizes.dense_layers) == (8, 2, 1)
    assert (2 + 1) * sizes.expert_width / sizes.width == pytest.approx(2.66, rel=0.03)


def test_untied_tables_count_twice():
    request = PlanRequest(parameters=10_000_000, embedding_share=0.35, tied=False)
    shape = planned(request, architecture(request, 8000))
    assert table_share(glm.weights(shape.sizes)) == 2 * 8000 * shape.sizes.width / shape.parameters


@pytest.mark.parametrize(("share", "layers"), [(0.25, 25.6), (0.35, 11.3), (0.45, 5.8)])
def test_a_share_forces_the_depth(share, layers):
    """Budget and vocabulary leave no choice: P (1 - share) over 4 D^2 + 3 x 2.66 D^2, where D = P share / V."""
    request = PlanRequest(parameters=10_000_000, embedding_share=share, glu=2.66)
    assert forced(request, architecture(request, 16_000)).layers == pytest.approx(layers, abs=0.15)


def test_a_budget_that_no_shape_meets_names_the_nearest():
    request = PlanRequest(parameters=10_000_000, embedding_share=0.45, glu=2.66)
    with pytest.raises(ProblemError) as raised:
        planned(request, architecture(request, 2000, gpt.weights))
    [problem] = raised.value.problems
    assert problem.code == "no-shape"
    assert "mean 0.1 layers of width 2,250" in problem.what
    tokens = int(
        re.findall(r"with a vocabulary of ([\d,]+) tokens it is met by", problem.fix or "")[0].replace(",", "")
    )
    assert planned(request, architecture(request, tokens, gpt.weights)).worst <= 1


@pytest.mark.parametrize("budget", [1, 100, 10**9, 10**13])
@pytest.mark.parametrize("vary", [{}, {"vary": "vocabulary", "layers": 12}, {"vary": "factor", "layers": 30}])
def test_a_budget_of_any_size_is_answered_soon_and_in_sense(budget, vary):
    request = PlanRequest(parameters=budget, embedding_share=0.9, **vary)
    try:
        shape = planned(request, architecture(request, 16_000, glm.weights))
    except ProblemError as error:
        text = f"{error}"
        assert "no shape meets the budget" in text
        assert not re.search(r"-[\d.]+ (tokens|layers)|width 0[ ,:]|rank -", text)
    else:
        assert shape.worst <= 1


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"layers": 3}, "the plan chooses the depth"),
        ({"vary": "vocabulary"}, "give the number of layers"),
        ({"vary": "vocabulary", "layers": 3, "vocabulary": 500}, "the plan chooses the vocabulary"),
        ({"experts": 2, "experts_per_token": 3}, "cannot use 3 of 2"),
        ({"parameters": "ten"}, "parameters"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(given, wrong):
    with pytest.raises(ValueError, match=wrong):
        PlanRequest(**{"parameters": "10M", "embedding_share": 0.35, **given})
