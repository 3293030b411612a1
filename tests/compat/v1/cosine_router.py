"""A router that compares directions only."""

import torch
from torch import nn
from torch.nn import functional

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema
from penstock.hooks.contracts import Routing


class CosineSettings(Schema):
    k: int = 2
    """Experts a token."""
    temperature: float = 0.1
    """What the cosines are divided by."""


class CosineRouter(nn.Module):
    e_score_correction_bias: torch.Tensor

    def __init__(self, *, k: int, temperature: float, hidden_size: int, experts: int) -> None:
        super().__init__()
        self.k, self.experts, self.temperature = k, experts, temperature
        self.weight = nn.Parameter(torch.randn(experts, hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))

    def forward(self, hidden_TD: torch.Tensor) -> Routing:
        direction_TD = functional.normalize(hidden_TD.float(), dim=-1)
        logits_TE = direction_TD @ functional.normalize(self.weight, dim=-1).T / self.temperature
        score_TE = logits_TE.softmax(dim=-1)
        expert_TK = (score_TE + self.e_score_correction_bias).topk(self.k, dim=-1).indices
        weight_TK = score_TE.gather(1, expert_TK)
        return Routing(expert_TK, weight_TK / weight_TK.sum(dim=-1, keepdim=True), logits_TE, score_TE)


@hookimpl
def routers() -> list[Component]:
    return [
        Component(
            kind="router",
            name="cosine",
            target="cosine_router:CosineRouter",
            config="cosine_router:CosineSettings",
            summary="Top-k of a cosine",
            contract=1,
        )
    ]
