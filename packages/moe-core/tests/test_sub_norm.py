"""Laws of `sub_norm`: a norm in front of output and down projections, in every kind of MLP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from penstock.hooks.contracts import ParameterRole, Routing
from penstock.hooks.problems import ProblemError
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.layers.experts import Experts
from penstock.moe_core.layers.mlp import SwiGLU

TOKENS = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(0))
EPSILON = 1e-5


def normalised(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * gain


def drawn(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def test_the_hidden_state_of_an_mlp_is_normalised():
    mlp = SwiGLU(8, 12, sub_norm_epsilon=EPSILON)
    drawn(mlp)
    x = torch.randn(3, 8)
    hidden = F.silu(x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)
    assert mlp.sub_norm is not None
    torch.testing.assert_close(mlp(x), normalised(hidden, mlp.sub_norm.weight) @ mlp.down_proj.weight.T)


@pytest.mark.parametrize("dropped", [False, True])
def test_the_hidden_state_of_every_expert_is_normalised_with_its_own_gain_and_then_weighted(dropped: bool):
    experts = Experts(4, 8, 12, sub_norm_epsilon=EPSILON)
    drawn(experts)
    x_TD, weight_TK = torch.randn(5, 8), torch.rand(5, 2) + 0.1
    expert_TK = torch.tensor([[0, 1], [2, 0], [1, 2], [0, 2], [2, 1]])  # none for the fourth
    kept_TK = torch.rand(5, 2) > 0.4 if dropped else None
    routing = Routing(expert_TK, weight_TK, torch.zeros(5, 4), torch.zeros(5, 4), kept_TK=kept_TK)
    expected_TD = torch.zeros(5, 8)
    assert experts.sub_norm is not None
    for token in range(5):
        for slot in range(2):
            if kept_TK is None or kept_TK[token, slot]:
                expert = int(expert_TK[token, slot])
                gate, up = (experts.gate_up_proj[expert] @ x_TD[token]).chunk(2)
                hidden = normalised(F.silu(gate) * up, experts.sub_norm[expert])
                expected_TD[token] += weight_TK[token, slot] * (experts.down_proj[expert] @ hidden)
    torch.testing.assert_close(experts(x_TD, routing), expected_TD, rtol=1e-4, atol=1e-4)


def test_gains_are_norms_that_start_at_one_and_learn(make_model):
    model = make_model(sub_norm=True)
    roles = model.parameter_roles()
    names = {name for name in roles if "sub_norm" in name}
    assert names == {
        *(f"layers.{layer}.self_attn.sub_norm.weight" for layer in range(3)),
        "layers.0.mlp.sub_norm.weight",
        *(f"layers.{layer}.mlp.experts.sub_norm" for layer in (1, 2)),
        *(f"layers.{layer}.mlp.shared_experts.sub_norm.weight" for layer in (1, 2)),
    }
    assert {roles[name] for name in names} == {ParameterRole.NORM}
    model.next_token_loss(TOKENS[:, :-1], TOKENS[:, 1:]).loss.backward()
    assert all(model.get_parameter(name).grad.any() for name in names)
    model.reset_parameters()
    model.layers[1].mlp.experts.sub_norm.data.fill_(1)
    model.reset_parameters()
    assert torch.equal(model.layers[1].mlp.experts.sub_norm, torch.ones(6, 16))


def test_with_and_without_a_cache_the_model_computes_the_same(make_model):
    model = make_model(sub_norm=True).eval()
    cache = model.new_cache(2, 12)
    parts = [model(TOKENS[:, :5], cache=cache).hidden_BSD, model(TOKENS[:, 5:], cache=cache).hidden_BSD]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(TOKENS).hidden_BSD)


def test_a_checkpoint_has_the_gains_and_names_a_model_that_transformers_does_not_know(make_model):
    model, other = make_model(sub_norm=True), make_model(sub_norm=True)
    drawn(other)
    other.load_export_state(model.export_state())
    assert torch.equal(other(TOKENS).hidden_BSD, model(TOKENS).hidden_BSD)
    config = model.export_config()
    assert (config["model_type"], config["sub_norm"]) == ("penstock_glm_moe", True)
    assert "sub_norm" not in make_model().export_config()


def test_no_transformers_class_has_it(make_model):
    with pytest.raises(ProblemError, match=r"no transformers class has a norm before output.*set sub_norm to false"):
        make_model(sub_norm=True).published_config()
    dense = {"first_k_dense_replace": 3, "num_hidden_layers": 3, "hidden_size": 8, "head_dim": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8}
    config = GlmMoeConfig(**dense, **heads, sub_norm=True)  # pyright: ignore[reportArgumentType]
    assert [each.fix for each in config.export_obstacles()] == ["set sub_norm to false"]


def test_experts_next_to_mlps_with_a_norm_have_no_single_model(make_model, make_router):
    base = make_model(first_k_dense_replace=3, sub_norm=True)
    model = FrozenBase(base, layers=[2], make_router=make_router, experts=4, expert_size=16)
    with pytest.raises(ProblemError, match="no exportable architecture has experts without a norm"):
        model.merged()
