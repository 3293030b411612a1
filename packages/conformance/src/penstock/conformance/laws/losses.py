# pyright: basic
"""What the laws of balancing losses share: routings with a known load, gradients, and losses compared.

Shape suffixes: T tokens, K slots a token, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import expect
from penstock.conformance.laws.routings import EXPERTS, TOKENS
from penstock.hooks.contracts import Routing


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


def gradient_of(loss: Any, logits_TE: Tensor, mask_T: Tensor | None = None) -> Tensor:
    """Returns the gradient [T, E] of the loss with respect to the logits; 0 if the loss does not depend on them."""
    leaf_TE = logits_TE.detach().clone().requires_grad_()
    value = loss(routing_of(leaf_TE), mask_T)
    if not value.requires_grad:
        return torch.zeros_like(leaf_TE)
    (gradient_TE,) = torch.autograd.grad(value, leaf_TE, allow_unused=True)
    return torch.zeros_like(leaf_TE) if gradient_TE is None else gradient_TE


def extremes() -> dict[str, Tensor]:
    """Logits [T, E] that are very large, or all equal, by what one would call them."""
    return {"times 1e4": 1e4 * logits(), "plus 1e4": 1e4 + logits(), "of 0": torch.zeros(TOKENS, EXPERTS)}


def every_other_token() -> Tensor:
    """A mask [T]."""
    return torch.arange(TOKENS) % 2 == 0


def expect_close(first: Tensor, second: Tensor, when: str) -> None:
    """Both losses are the same, but for rounding in fp32."""
    one, other = float(first), float(second)
    expect(abs(one - other) <= 1e-5 * max(abs(one), abs(other)), f"{when} the loss is {other:.8g}, and {one:.8g} else")
