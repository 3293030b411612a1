"""How a planner sees a `Gpt`; imports no torch."""

from __future__ import annotations

from typing import Any

from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.gpt.counts import weights
from penstock.moe_core.plan.config import Fields, Planner
from penstock.moe_core.plan.request import PlanRequest
from penstock.moe_core.plan.search import Architecture, base_sizes
from penstock.moe_core.plan.weights import Sizes


def architecture(request: PlanRequest, vocabulary: int, given: Fields) -> Architecture:
    if request.experts:
        what = "a gpt is dense, so it has no experts"
        raise ProblemError(Problem("bad-value", what, "model.plan.experts", "remove it, or use glm-moe"))
    own = {"sub_norm": given["sub_norm"], "positions": given["max_position_embeddings"]}
    return Architecture(weights, base_sizes(request, vocabulary, **own), free_attention=False)


def written(sizes: Sizes) -> dict[str, Any]:
    """Sizes under the names of `GptConfig`."""
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.feed_forward,
    }


PLANNER = Planner(architecture, written, frozenset(written(Sizes(0, 0, 0, 0, 0, 0, 0))))
