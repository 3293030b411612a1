"""Capacity: how many tokens an expert takes, and which slots are dropped.

Tokens are served in order, so tokens later in a batch are dropped first, and no token affects an earlier one.

Shape suffixes: T tokens, K experts per token, N = T*K slots, E experts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tokens_an_expert(factor: float, tokens: int, k: int, experts: int) -> int:
    """`factor` times the even share, rounded up; 1.0 leaves no room for uneven load."""
    return math.ceil(factor * tokens * k / experts)


def within_capacity(expert_TK: Tensor, *, experts: int, capacity: int) -> Tensor:
    """Bool [T, K]: True for the first `capacity` slots of each expert, in the order of tokens.

    Sorts the N slots instead of counting in an [N, E] table, and reads no value from the device.
    """
    expert_N = expert_TK.flatten()
    order_N = expert_N.argsort(stable=True)
    counts_E = torch.zeros(experts, dtype=torch.int64, device=expert_TK.device)
    counts_E = counts_E.scatter_add(0, expert_N, torch.ones_like(expert_N))
    start_E = counts_E.cumsum(0) - counts_E
    place_N = torch.arange(len(expert_N), device=expert_TK.device) - start_E[expert_N[order_N]]
    return torch.empty_like(expert_N).scatter(0, order_N, place_N).view_as(expert_TK) < capacity
