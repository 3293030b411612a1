"""A small router of the tests' own, so that this package is tested without any other column."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Routing
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe


class PlainRouter(nn.Module):
    """Sigmoid scores, the k highest after the bias, weights normalised without it: GLM's router with one group."""

    score_function = "sigmoid"
    e_score_correction_bias: Tensor

    def __init__(self, hidden_size: int, experts: int, k: int, scale: float = 1.0) -> None:
        super().__init__()
        self.experts, self.k, self.scale = experts, k, scale
        self.weight = nn.Parameter(torch.randn(experts, hidden_size) * 0.1)
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))

    def forward(self, hidden_TD: Tensor) -> Routing:
        logits_TE = hidden_TD.to(self.weight.dtype) @ self.weight.T
        score_TE = logits_TE.sigmoid()
        expert_TK = (score_TE + self.e_score_correction_bias).topk(self.k).indices
        weight_TK = score_TE.gather(1, expert_TK)
        return Routing(expert_TK, self.scale * weight_TK / weight_TK.sum(-1, keepdim=True), logits_TE, score_TE)


SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 6,
}


@pytest.fixture
def make_router() -> Callable[..., PlainRouter]:
    """Makes the routers of a model's layers."""
    return lambda layer, **sizes: PlainRouter(k=2, **sizes)


@pytest.fixture
def make_model() -> Callable[..., GlmMoe]:
    """Builds a small model with random weights everywhere (biases and zero-started projections too)."""

    def make(k: int = 2, quantizer=None, scale: float = 1.0, **sizes) -> GlmMoe:
        torch.manual_seed(0)
        config = GlmMoeConfig(**{**SIZES, **sizes})
        model = GlmMoe(
            config, make_router=lambda layer, **context: PlainRouter(k=k, scale=scale, **context), quantizer=quantizer
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            for router in model.routers.values():
                assert router.e_score_correction_bias is not None
                router.e_score_correction_bias.copy_(torch.randn(router.experts) * 0.2)
        return model

    return make
