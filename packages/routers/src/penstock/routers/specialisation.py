"""How much the choice of experts depends on the token.

Even load does not show this: a router that assigns tokens in turn is perfectly balanced and has learned nothing.

Shape suffixes: T tokens, K experts per token, E experts, I different token ids.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_specialisation(expert_TK: Tensor, token_T: Tensor, experts: int) -> float:
    """The share of the entropy of the experts that the token's id explains: I(expert; id) / H(expert).

    A finite sample overestimates the information. The function therefore subtracts the information of the same choices
    in random order (a fixed permutation). A router that ignores its input scores about 0, and a router that uses only
    the id scores 1. The result is 0 without assignments, or if one expert takes all tokens.
    """
    entropy = _entropy(expert_TK.flatten().bincount(minlength=experts))
    if not len(token_T) or entropy == 0:
        return 0.0
    order_T = torch.randperm(len(token_T), generator=torch.Generator().manual_seed(0)).to(token_T.device)
    by_chance, found = (_information(expert_TK, each_T, experts) for each_T in (token_T[order_T], token_T))
    return (found - by_chance) / (entropy - by_chance) if entropy > by_chance else 0.0


def _information(expert_TK: Tensor, token_T: Tensor, experts: int) -> float:
    """I(expert; id) in nats."""
    ids, index_T = token_T.unique(return_inverse=True)
    pair_TK = index_T[:, None] * experts + expert_TK
    joint_IE = pair_TK.flatten().bincount(minlength=len(ids) * experts).view(len(ids), experts)
    return _entropy(joint_IE.sum(0)) + _entropy(joint_IE.sum(1)) - _entropy(joint_IE.flatten())


def _entropy(counts: Tensor) -> float:
    share = counts.double() / counts.sum().clamp(min=1)
    return torch.special.entr(share).sum().item()
