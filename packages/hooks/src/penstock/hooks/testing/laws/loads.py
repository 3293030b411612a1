# pyright: basic
"""Routings with a known load, for the laws about balance.

Shape suffixes: T tokens, K slots a token, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.hooks.contracts import Routing
from penstock.hooks.testing.laws.routings import EXPERTS, TOKENS


def logits(tokens: int = TOKENS, seed: int = 5) -> Tensor:
    """[T, E], of tokens that have nothing in common."""
    return torch.randn(tokens, EXPERTS, generator=torch.Generator().manual_seed(seed))


def even(tokens: int = TOKENS, experts: int = EXPERTS) -> Tensor:
    """Logits [T, E] under which token t prefers expert t, then t + 1 and so on, modulo the number of experts: where
    that number divides `tokens`, load and mean score are the same for all experts."""
    return _preferring(torch.arange(tokens), experts)


def towards_one_pair(share: float) -> Tensor:
    """The logits of `even`, but that a share of the tokens prefers experts 0 and 1."""
    token_T = torch.arange(TOKENS)
    return _preferring(torch.where(token_T < share * TOKENS, 0, token_T), EXPERTS)


def _preferring(first_T: Tensor, experts: int) -> Tensor:
    distance_TE = (torch.arange(experts) - first_T.unsqueeze(-1)) % experts
    return 3.0 - 0.5 * distance_TE.clamp(max=6)


def routing_of(logits_TE: Tensor, k: int = 2, expert_TK: Tensor | None = None) -> Routing:
    """Softmax scores, and the `k` experts of the highest unless they are given; weights sum to 1."""
    score_TE = logits_TE.softmax(dim=-1)
    if expert_TK is None:
        expert_TK = score_TE.topk(k, dim=-1).indices
    weight_TK = score_TE.gather(-1, expert_TK)
    return Routing(expert_TK, weight_TK / (weight_TK.sum(dim=-1, keepdim=True) + 1e-20), logits_TE, score_TE)
