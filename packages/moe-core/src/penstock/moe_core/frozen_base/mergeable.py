"""Which frozen bases with experts are one `GlmMoe`, told from settings. Imports no torch.

Its layers are dense up to some layer and mixtures of experts from there on, with a shared expert that sees every token.
Experts next to an MLP become its experts and the MLP its shared expert; experts in place of an MLP become experts
without a shared one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.glm.config import GlmMoeConfig


def merged_config(
    base: object, layers: Collection[int], *, experts: int, expert_size: int, beside: bool
) -> GlmMoeConfig:
    """The config of the merged model, given that of the base; raises `ProblemError` if no `GlmMoe` is equivalent."""
    if not isinstance(base, GlmMoeConfig):
        raise _cannot("a base that is not a glm-moe")
    if base.expert_layers:
        raise _cannot("experts next to experts")
    if base.sub_norm:
        raise _cannot("experts without a norm before their down projection next to MLPs with one")
    first, last = min(layers), base.num_hidden_layers - 1
    if missing := [layer for layer in range(first, last + 1) if layer not in layers]:
        raise _cannot(f"dense layers after the first one with experts ({', '.join(map(str, missing))})")
    if beside and base.intermediate_size % expert_size:
        raise _cannot(f"MLPs of width {base.intermediate_size} next to experts of width {expert_size}")
    sizes: dict[str, Any] = {
        "first_k_dense_replace": first,
        "n_routed_experts": experts,
        "moe_intermediate_size": expert_size,
        "n_shared_experts": base.intermediate_size // expert_size if beside else 0,
    }
    return base.model_copy(update={**sizes, "pretrained": None})


def _cannot(what: str) -> ProblemError:
    fix = (
        "use a dense glm-moe base, experts in every layer from the first to the last, and an expert_size that divides "
        "the MLPs' width"
    )
    return ProblemError(Problem("not-exportable", f"no exportable architecture has {what}", "model", fix))
