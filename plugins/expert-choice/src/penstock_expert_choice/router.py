"""Expert-choice routing (Zhou et al., arXiv 2202.09368): experts choose tokens, instead of tokens choosing experts.

The load is even by construction, so there is nothing to balance. The price is causality: whether an expert takes a
token depends on every token of the forward pass, including later tokens and those of other sequences.

Shape suffixes: T tokens, D model width, E experts, C tokens that an expert takes, K slots per token.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.hooks.contracts import Routing
from penstock.hooks.problems import Problem, ProblemError

# The initializer_range of GLM-4.x.
INITIAL_STD = 0.02


class ExpertChoice(nn.Module):
    """Each of `experts` experts takes the `capacity` tokens of a forward pass with its highest scores.

    A score is the softmax over experts of the gate's output, and also the weight of an expert's output. A token may be
    taken by any number of experts, including none; with `normalize` the weights of a taken token sum to 1.

    `k` is `capacity_factor` rounded up: the average number of experts per token, for code that needs a fixed number.
    `weight` [E, D] is an fp32 parameter; there is no selection bias. Raises `ProblemError` unless
    0 < capacity_factor <= experts.
    """

    depends_on_batch = True
    weight: nn.Parameter

    def __init__(
        self, hidden_size: int, experts: int, *, capacity_factor: float = 2.0, normalize: bool = False
    ) -> None:
        super().__init__()
        if not 0 < capacity_factor <= experts:
            what = f"capacity_factor is {capacity_factor}, but a token can have at most {experts} experts"
            fix = f"use more than 0 and at most {experts}"
            raise ProblemError(Problem("bad-value", what, "router 'expert-choice'", fix))
        self.hidden_size = hidden_size
        self.experts = experts
        self.capacity_factor = capacity_factor
        self.normalize = normalize
        self.k = math.ceil(capacity_factor)
        self.e_score_correction_bias = None
        self.weight = nn.Parameter(torch.empty(experts, hidden_size, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weight from a normal distribution (std 0.02)."""
        nn.init.normal_(self.weight, std=INITIAL_STD)

    def capacity(self, tokens: int) -> int:
        """The number of `tokens` that each expert takes."""
        return math.ceil(tokens * self.capacity_factor / self.experts)

    def forward(self, hidden_TD: Tensor) -> Routing:
        """Routes hidden states [T, D] of any floating dtype; T may be 0.

        The routing has as many slots per token as the largest number of experts that took one token. A token's kept
        slots come first, by ascending expert; the others are empty and name experts that did not take it.
        """
        with _no_autocast(hidden_TD.device.type):
            logits_TE = functional.linear(hidden_TD.float(), self.weight.float())
        score_TE = logits_TE.softmax(dim=-1)
        expert_TK, kept_TK = slots(self.taken(score_TE))
        weight_TK = torch.where(kept_TK, score_TE.gather(-1, expert_TK), 0.0)
        if self.normalize:
            weight_TK = weight_TK / weight_TK.sum(dim=-1, keepdim=True).clamp_min(1e-20)
        return Routing(expert_TK, weight_TK, logits_TE, score_TE, kept_TK)

    @torch.no_grad()
    def taken(self, score_TE: Tensor) -> Tensor:
        """bool [T, E], True where the expert takes the token. Among equal scores, the earlier token wins."""
        # A stable sort instead of a top-k, whose choice among equal scores depends on the device: before attention has
        # learned to distinguish positions, equal tokens have equal scores. It takes 1 ms for 2048 tokens and 8
        # experts on 2 cores.
        best_CE = score_TE.sort(dim=0, descending=True, stable=True).indices[: self.capacity(len(score_TE))]
        return torch.zeros_like(score_TE, dtype=torch.bool).scatter(0, best_CE, True)

    def extra_repr(self) -> str:
        return f"{self.experts} experts, capacity_factor={self.capacity_factor}, hidden_size={self.hidden_size}"


def slots(taken_TE: Tensor) -> tuple[Tensor, Tensor]:
    """(experts, kept) of each token, both [T, K]: K is the most experts of any token; kept slots come first."""
    most = int(taken_TE.sum(dim=1).max()) if len(taken_TE) else 0
    taken, expert_TE = taken_TE.byte().sort(dim=1, descending=True, stable=True)
    return expert_TE[:, :most].contiguous(), taken[:, :most].bool()


def _no_autocast(device_type: str) -> AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(device_type)  # the meta device has none and refuses the context
    return torch.autocast(device_type, enabled=False) if available else nullcontext()
