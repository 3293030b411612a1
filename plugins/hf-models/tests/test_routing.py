"""Other choices in the place of a router's own: the model computes them, in every family."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import MIXTURES, VOCABULARY, build, tokens
from penstock_hf_models.build import hf_model
from penstock_hf_models.scores import observed_rule
from torch import Tensor

from penstock.hooks import ProblemError
from penstock.hooks.contracts import ReplaceableRouter, Routing

each_mixture = pytest.mark.parametrize("family", MIXTURES)


def logits(model: Any, change: Callable[[Routing], Routing] | None = None) -> Tensor:
    with ExitStack() as stack:
        for router in model.routers.values() if change else ():
            stack.enter_context(router.replacing(change))
        return model.logits(model(tokens(3, 9)).hidden_BSD)


def shifted(routing: Routing) -> Routing:
    """The next experts, with the weights that the chosen ones had."""
    return replace(routing, expert_TK=(routing.expert_TK + 1) % routing.score_TE.shape[-1])


def only_the_first(routing: Routing) -> Routing:
    k = routing.expert_TK.shape[1]
    return replace(routing, expert_TK=torch.arange(k).expand_as(routing.expert_TK).clone())


@each_mixture
@torch.no_grad()
def test_a_choice_that_is_written_back_as_it_was_computes_the_same_bits(family: str) -> None:
    model = build(family)
    own = logits(model)
    assert torch.equal(own, logits(model, lambda routing: routing))
    assert torch.equal(own, logits(model, replace))
    assert not torch.equal(own, logits(model, shifted))
    assert torch.equal(own, logits(model))


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
@torch.no_grad()
def test_a_choice_that_is_written_back_is_the_same_in_bf16(family: str) -> None:
    model = build(family)
    model.compute_dtype = torch.bfloat16
    assert torch.equal(logits(model), logits(model, replace))


@each_mixture
@torch.no_grad()
def test_the_experts_that_were_put_in_compute_and_no_others_do(family: str) -> None:
    model = build(family)
    before = logits(model, only_the_first)
    k = next(iter(model.routers.values())).k
    expert_stacks = [
        each for name, each in model.named_parameters() if each.dim() == 3 and "self_attention" not in name
    ]
    assert expert_stacks
    for weight_EXX in expert_stacks:
        weight_EXX[k:] *= -2
    assert torch.equal(before, logits(model, only_the_first))
    for weight_EXX in expert_stacks:
        weight_EXX[:k] *= -2
    assert not torch.equal(before, logits(model, only_the_first))


@each_mixture
@torch.no_grad()
def test_the_weights_that_were_put_in_scale_the_experts(family: str) -> None:
    model = build(family)
    none = logits(model, lambda routing: replace(routing, weight_TK=torch.zeros_like(routing.weight_TK)))
    for name, weight_EXX in model.named_parameters():
        if weight_EXX.dim() == 3 and "self_attention" not in name:
            weight_EXX *= -2
    for name, bias_EX in model.named_parameters():
        if name.endswith(("down_proj_bias", "gate_up_proj_bias")):
            bias_EX *= -2
    assert torch.equal(none, logits(model, lambda routing: replace(routing, weight_TK=0 * routing.weight_TK)))


@each_mixture
@torch.no_grad()
def test_the_output_says_what_was_computed(family: str) -> None:
    model, seen = build(family), dict[int, Routing]()
    with ExitStack() as stack:
        for layer, router in model.routers.items():
            assert isinstance(router, ReplaceableRouter)
            stack.enter_context(router.replacing(lambda routing, layer=layer: seen.setdefault(layer, shifted(routing))))
        routings = model(tokens(2, 5)).routings
    assert seen.keys() == routings.keys()
    for layer, routing in routings.items():
        order_TK, expected_TK = (each.expert_TK.argsort(dim=-1) for each in (routing, seen[layer]))
        assert torch.equal(routing.expert_TK.gather(1, order_TK), seen[layer].expert_TK.gather(1, expected_TK))
        torch.testing.assert_close(routing.weight_TK.gather(1, order_TK), seen[layer].weight_TK.gather(1, expected_TK))


SCORES = {"deepseek_v3": torch.sigmoid, "glm4_moe": torch.sigmoid, "llama4_text": torch.sigmoid}


@each_mixture
@pytest.mark.parametrize("k", [1, 2])
@torch.no_grad()
def test_scores_follow_from_the_class_with_one_expert_a_token_and_with_a_gate_of_zeros(family: str, k: int) -> None:
    model: Any = hf_model(
        model_type=family, settings={**MIXTURES[family], "num_experts_per_tok": k}, vocab_size=VOCABULARY
    ).eval()
    expected = SCORES.get(family, lambda logits_TE: logits_TE.softmax(dim=-1))
    gates = [each for site in model.routers.values() for each in site.module.parameters() if each.dim() == 2]
    for std in (0.0, 1.0):
        for gate in gates:
            gate.normal_(0, std)
        for routing in model(tokens(2, 5)).routings.values():
            assert torch.equal(routing.score_TE, expected(routing.logits_TE))


@torch.no_grad()
def test_a_model_built_on_the_meta_device_scores_as_the_same_model_elsewhere() -> None:
    for family in ("mixtral", "deepseek_v3"):
        with torch.device("meta"):
            built: Any = hf_model(model_type=family, settings=MIXTURES[family], vocab_size=VOCABULARY)
        rules = {site.score_rule for site in built.routers.values()}
        assert rules == {site.score_rule for site in build(family).routers.values()} != {None}


@torch.no_grad()
def test_the_scores_of_a_module_that_cannot_be_watched_are_examined_in_every_pass() -> None:
    model = build("deepseek_v3")
    for site in model.routers.values():
        site.score_rule = None
        site.module.weight.zero_()
    guessed = model(tokens(2, 5)).routings
    assert all(torch.equal(each.score_TE, each.logits_TE.softmax(dim=-1)) for each in guessed.values())
    for site in model.routers.values():
        site.module.weight.normal_()
    examined = model(tokens(2, 5)).routings
    assert all(torch.equal(each.score_TE, each.logits_TE.sigmoid()) for each in examined.values())


@pytest.mark.parametrize("wants", ["more", "nothing known"])
def test_only_what_was_seen_is_a_rule(wants: str) -> None:
    class Other(torch.nn.Linear):
        def forward(self, hidden: Tensor, *given: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return given[0] if wants == "more" else super().forward(hidden).tanh()

    assert observed_rule(Other(8, 4), experts=4, hidden_size=8) is None


def test_a_router_that_does_not_say_what_it_chose_is_refused() -> None:
    model = build("mixtral")
    site: Any = model.routers[1]
    site.module.forward = lambda hidden: hidden
    with site.replacing(shifted), pytest.raises(ProblemError, match="does not return which experts it chose"):
        site.module(torch.zeros(1, 32))


@pytest.mark.parametrize(
    ("family", "more", "warned"),
    [
        ("mixtral", {}, True),
        ("qwen3_moe", {"norm_topk_prob": True}, True),
        ("qwen3_moe", {"norm_topk_prob": False}, False),
        ("olmoe", {"norm_topk_prob": False}, False),
        ("glm4_moe", {"norm_topk_prob": True}, True),
        ("glm4_moe", {"norm_topk_prob": False}, False),
        ("gpt_oss", {}, True),
        ("llama4_text", {}, False),
        ("jetmoe", {}, True),
    ],
)
def test_training_is_warned_of_routers_whose_weights_are_constant(family, more, warned, caplog):
    settings = {**MIXTURES[family], **more, "num_experts_per_tok": 1}
    hf_model(model_type=family, settings=settings, vocab_size=VOCABULARY).parameter_layout()
    said = [record.message for record in caplog.records if record.name == "penstock"]
    assert len(said) == warned, said
    assert all("learns nothing from the text" in text for text in said)
