"""How a planner sees a `GlmMoe`; imports no torch."""

from __future__ import annotations

from typing import Any

from penstock.moe_core.glm.counts import weights
from penstock.moe_core.plan.config import Fields, Planner
from penstock.moe_core.plan.request import PlanRequest
from penstock.moe_core.plan.search import Architecture, base_sizes
from penstock.moe_core.plan.weights import Sizes


def architecture(request: PlanRequest, vocabulary: int, given: Fields) -> Architecture:
    own = {
        "attention_bias": given["attention_bias"],
        "qk_norm": given["use_qk_norm"],
        "sub_norm": given["sub_norm"],
    }
    return Architecture(weights, base_sizes(request, vocabulary, **own), free_attention=True)


def written(sizes: Sizes) -> dict[str, Any]:
    """Sizes under the names of `GlmMoeConfig`."""
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "first_k_dense_replace": sizes.layers - sizes.expert_layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "head_dim": sizes.head_size,
        "intermediate_size": sizes.feed_forward,
        "moe_intermediate_size": sizes.expert_width,
        "n_routed_experts": sizes.experts,
        "n_shared_experts": sizes.shared_experts,
    }


PLANNER = Planner(architecture, written, frozenset(written(Sizes(0, 0, 0, 0, 0, 0, 0))))
