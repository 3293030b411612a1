"""Padding holds no expert's place: texts of a padded batch are routed as the packed ones are, by every router."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.hooks import Registry
from penstock.hooks.contracts import Inputs
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe

SHORT, LONG = 8, 64
ROUTERS = {
    "sigmoid-topk": {"use": "sigmoid-topk", "capacity": 1.25},
    "sinkhorn": {"use": "sinkhorn"},
    "round-robin": {"use": "round-robin"},
    "hash": {"use": "hash"},
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def model_with(registry: Registry, router: dict[str, Any]) -> GlmMoe:
    """One mixture layer alone sees what no router has changed before it."""
    torch.manual_seed(0)
    config = GlmMoeConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        moe_intermediate_size=16,
        n_routed_experts=4,
    )
    model = GlmMoe(config, make_router=lambda layer, **sizes: registry.build("router", router, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def texts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(1, 61, (SHORT,), generator=generator), torch.randint(1, 61, (LONG,), generator=generator)


@pytest.mark.parametrize("name", ROUTERS)
def test_a_padded_batch_is_routed_as_the_packed_texts_are(registry, name):
    model, (short, long) = model_with(registry, ROUTERS[name]), texts()
    token_BS = torch.zeros(2, LONG, dtype=torch.int64)
    token_BS[0, :SHORT], token_BS[1] = short, long
    real_BS = torch.arange(LONG) < torch.tensor([[SHORT], [LONG]])
    packed_BS = torch.cat((short, long))[None]
    document_BS = torch.tensor([0] * SHORT + [1] * LONG)[None]
    with torch.no_grad():
        padded = model(Inputs(token_BS, real_BS))
        packed = model(Inputs(packed_BS, document_BS=document_BS))
    torch.testing.assert_close(padded.hidden_BSD[real_BS], packed.hidden_BSD[0], rtol=1e-4, atol=1e-4)
    for layer, routing in padded.routings.items():
        real_T, expected = real_BS.flatten(), packed.routings[layer]
        assert routing.kept_TK is not None
        assert torch.equal(routing.expert_TK[real_T], expected.expert_TK)
        assert not routing.kept_TK[~real_T].any()
        places = expected.expert_TK.numel() if expected.kept_TK is None else int(expected.kept_TK.sum())
        assert int(routing.kept_TK.sum()) == places
