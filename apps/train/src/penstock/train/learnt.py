"""What experts learned that were added to a frozen model.

Shape suffixes: W windows, B windows of a batch, S sequence, T tokens, K experts per token, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.contracts import PartlyFrozen
from penstock.routers.load import count_assignments, load_metrics
from penstock.routers.specialisation import token_specialisation


@torch.no_grad()
def what_was_learnt(model: PartlyFrozen, window_WS: Tensor, batch: int) -> dict[str, float]:
    """Figures on some windows of held-out tokens: mean nats of the base and of the whole model, and how the experts of
    the whole model share the tokens."""
    whole: Any = model
    nats = {"loss_before": 0.0, "loss_after": 0.0}
    chosen: dict[int, list[Tensor]] = {layer: [] for layer in whole.routers}
    was_training = whole.training
    whole.eval()
    for window_BS in window_WS.split(batch):
        token_BS, target_BS = window_BS[:, :-1], window_BS[:, 1:]
        nats["loss_before"] += whole.base.next_token_loss(token_BS, target_BS).loss.item()
        output = whole.next_token_loss(token_BS, target_BS)
        nats["loss_after"] += output.loss.item()
        for layer, routing in output.routings.items():
            chosen[layer].append(routing.expert_TK)
    whole.train(was_training)
    token_T, experts = window_WS[:, :-1].flatten(), next(iter(whole.routers.values())).experts
    layers_TK = [torch.cat(parts) for parts in chosen.values()]
    load = load_metrics(count_assignments(layers_TK, experts=experts))
    specialisation = [token_specialisation(expert_TK, token_T, experts) for expert_TK in layers_TK]
    return {
        "heldout_tokens": len(token_T),
        **{name: value / len(token_T) for name, value in nats.items()},
        "entropy": load["entropy"],
        "gini": load["gini"],
        "specialisation": sum(specialisation) / len(specialisation),
    }


def as_text(learnt: Mapping[str, float]) -> str:
    """A summary in words, with the trained share and the last step's balancing losses."""
    balance = [f"{name} {value:.3f}" for name, value in learnt.items() if name.startswith("balance/")]
    routing = [f"{name} {learnt[name]:.3f}" for name in ("entropy", "gini", "specialisation")]
    return "\n".join(
        [
            f"trained: {learnt['trained_share']:.1%} of all parameters",
            f"held-out loss: {learnt['loss_before']:.4f} nats before, {learnt['loss_after']:.4f} after "
            f"({learnt['heldout_tokens']:,} tokens)",
            f"experts: {', '.join([*routing, *balance])}",
        ]
    )
