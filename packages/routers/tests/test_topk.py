from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.glm4_moe.configuration_glm4_moe import Glm4MoeConfig
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter

from penstock.hooks.contracts import Router, Routing
from penstock.routers.topk import SigmoidTopK, SoftmaxTopK, TopKRouter

BOTH = pytest.mark.parametrize("kind", [SigmoidTopK, SoftmaxTopK])


def randomized(router: TopKRouter, seed: int) -> TopKRouter:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        router.weight.normal_(generator=generator)
        router.e_score_correction_bias.normal_(generator=generator)
    return router


def hidden(tokens: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def by_expert(routing: Routing) -> torch.Tensor:
    """Weights [T, E], 0 where an expert is not chosen: the routing without the order of the experts."""
    return torch.zeros_like(routing.score_TE).scatter(-1, routing.expert_TK, routing.weight_TK)


def dumb_routing(router: TopKRouter, hidden_TD: torch.Tensor) -> np.ndarray:
    """Token by token in fp64 numpy: weights [T, E]."""
    bias = router.e_score_correction_bias.double().numpy()
    weights = np.zeros((len(hidden_TD), router.experts))
    for token, row in enumerate(hidden_TD.double().numpy()):
        logits = router.weight.detach().double().numpy() @ row
        scores = 1 / (1 + np.exp(-logits)) if isinstance(router, SigmoidTopK) else np.exp(logits) / np.exp(logits).sum()
        groups = np.split(np.arange(router.experts), router.groups)
        groups.sort(key=lambda group: -np.sort((scores + bias)[group])[-2:].sum())
        allowed = np.concatenate(groups[: router.groups_kept]) if router.groups > 1 else np.arange(router.experts)
        chosen = sorted(allowed, key=lambda expert: -(scores + bias)[expert])[: router.k]
        total = scores[chosen].sum() if router.normalize else 1.0
        weights[token, chosen] = scores[chosen] / total * router.scale
    return weights


@given(
    kind=st.sampled_from([SigmoidTopK, SoftmaxTopK]),
    shape=st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 3)]),
    group_size=st.integers(2, 5),
    k=st.integers(1, 4),
    normalize=st.booleans(),
    scale=st.sampled_from([1.0, 2.5]),
    tokens=st.integers(0, 6),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=80)
def test_routing_equals_the_definition(kind, shape, group_size, k, normalize, scale, tokens, seed):
    groups, kept = shape
    k = min(k, kept * group_size)
    router = kind(6, groups * group_size, k=k, normalize=normalize, scale=scale, groups=groups, groups_kept=kept)
    randomized(router, seed)
    hidden_TD = hidden(tokens, 6, seed)
    routing = router(hidden_TD)
    np.testing.assert_allclose(by_expert(routing).detach().numpy(), dumb_routing(router, hidden_TD), atol=2e-6)
    assert routing.expert_TK.shape == (tokens, k)
    assert routing.expert_TK.dtype == torch.int64
    assert all(len(set(row)) == k for row in routing.expert_TK.tolist())


@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (2, 1), (4, 2)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_sigmoid_routing_equals_glm4_moe(groups, kept, normalize, seed):
    ours = SigmoidTopK(16, 8, k=3, normalize=normalize, scale=2.5, groups=groups, groups_kept=kept)
    randomized(ours, seed)
    theirs = Glm4MoeTopkRouter(
        Glm4MoeConfig(
            hidden_size=16,
            n_routed_experts=8,
            num_experts_per_tok=3,
            n_group=groups,
            topk_group=kept,
            norm_topk_prob=normalize,
            routed_scaling_factor=2.5,
        )
    )
    theirs.load_state_dict(ours.state_dict())
    assert (ours.e_score_correction_bias < 0).any()

    hidden_TD = hidden(64, 16, seed)
    routing = ours(hidden_TD)
    logits_TE, weight_TK, expert_TK = theirs(hidden_TD)
    torch.testing.assert_close(routing.logits_TE, logits_TE, rtol=0, atol=0)
    expected = torch.zeros_like(logits_TE).scatter(-1, expert_TK, weight_TK)
    torch.testing.assert_close(by_expert(routing), expected, rtol=0, atol=1e-6)

    by_expert(routing).square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)


@BOTH
def test_bias_changes_choice_but_not_weight(kind):
    router = kind(8, 6, k=2, normalize=False)
    hidden_TD = hidden(10, 8)
    before = router(hidden_TD)
    with torch.no_grad():
        router.e_score_correction_bias[4] = 100.0
    after = router(hidden_TD)
    assert (after.expert_TK == 4).any(dim=-1).all()
    assert not (before.expert_TK == 4).any(dim=-1).all()
    torch.testing.assert_close(after.weight_TK, before.score_TE.gather(-1, after.expert_TK), rtol=0, atol=0)


@BOTH
def test_weights_of_a_token_sum_to_the_scale(kind):
    routing = randomized(kind(8, 6, k=3, scale=2.5), 0)(hidden(10, 8))
    torch.testing.assert_close(routing.weight_TK.sum(-1), torch.full((10,), 2.5))


@BOTH
@pytest.mark.parametrize("cast", ["bfloat16", "half", "double"])
def test_bias_keeps_every_bit_when_the_model_is_cast(kind, cast):
    router = randomized(kind(8, 6), 0)
    model = torch.nn.Sequential(router)
    bias = router.e_score_correction_bias.clone()
    getattr(model, cast)()
    model.to(torch.bfloat16)
    assert router.e_score_correction_bias.dtype == torch.float32
    assert torch.equal(router.e_score_correction_bias, bias)
    assert router.weight.dtype == torch.bfloat16
    assert "0.e_score_correction_bias" in model.state_dict()


@BOTH
def test_bias_follows_the_device_and_keeps_its_type(kind):
    moved = kind(8, 6).to("meta", torch.bfloat16)
    assert moved.e_score_correction_bias.device.type == "meta"
    assert moved.e_score_correction_bias.dtype == torch.float32


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_routing_is_fp32_for_any_model_dtype(kind, dtype):
    router = randomized(kind(8, 6), 0).to(dtype)
    hidden_TD = hidden(10, 8).to(dtype)
    routing = router(hidden_TD)
    for tensor in (routing.logits_TE, routing.score_TE, routing.weight_TK):
        assert tensor.dtype == torch.float32
    expected = hidden_TD.float() @ router.weight.float().T
    torch.testing.assert_close(routing.logits_TE, expected, rtol=0, atol=1e-5)


@BOTH
def test_autocast_does_not_lower_the_logits(kind):
    router = randomized(kind(8, 6), 0)
    expected = router(hidden(10, 8)).logits_TE
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(hidden(10, 8)).logits_TE, expected)


@BOTH
def test_no_tokens_route_nowhere(kind):
    routing = kind(8, 6, k=2, groups=3, groups_kept=2)(torch.zeros(0, 8))
    assert routing.expert_TK.shape == (0, 2)
    assert routing.weight_TK.shape == (0, 2)


@BOTH
def test_meta_router_becomes_real_by_reset(kind):
    with torch.device("meta"):
        router = kind(400, 6)
    assert router.weight.is_meta
    assert router(torch.zeros(3, 400, device="meta")).weight_TK.shape == (3, 2)
    router.to_empty(device="cpu").reset_parameters()
    assert router.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not router.e_score_correction_bias.any()


@BOTH
def test_master_weight_is_fp32_under_another_default_dtype(kind):
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert {tensor.dtype for tensor in kind(8, 6).state_dict().values()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


@BOTH
def test_bias_has_no_gradient_and_the_weight_has_one(kind):
    router = randomized(kind(8, 6, normalize=False), 0)
    router(hidden(10, 8)).weight_TK.sum().backward()
    assert [name for name, _ in router.named_parameters()] == ["weight"]
    assert router.weight.grad is not None
    assert router.weight.grad.abs().sum() > 0


@BOTH
def test_router_meets_the_contract(kind):
    assert isinstance(kind(8, 6), Router)


@pytest.mark.parametrize(
    ("experts", "arguments", "numbers"),
    [
        (4, {"k": 5}, ["k=5", "experts=4"]),
        (4, {"k": 0}, ["k=0"]),
        (6, {"groups": 4}, ["groups=4", "experts=6"]),
        (6, {"groups": 0}, ["groups=0"]),
        (6, {"groups": 6, "groups_kept": 3}, ["groups=6", "experts=6", "1 per group"]),
        (6, {"k": 3, "groups": 3, "groups_kept": 1}, ["k=3", "2 experts", "groups_kept=1"]),
        (6, {"groups": 2, "groups_kept": 3}, ["groups_kept=3", "groups=2"]),
        (6, {"groups": 2, "groups_kept": 0}, ["groups_kept=0", "groups=2"]),
    ],
)
def test_sizes_that_do_not_fit_are_named(experts, arguments, numbers):
    with pytest.raises(ValueError, match=r"choose|needs|lower k") as caught:
        SigmoidTopK(8, experts, **arguments)
    assert all(number in str(caught.value) for number in numbers)
