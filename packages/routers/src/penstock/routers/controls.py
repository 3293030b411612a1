"""Routers that learn nothing: controls that a learned router must beat.

`Random` ignores the token, `TokenHash` only uses its id, `Hash` sends similar hidden states to the same experts,
`RoundRobin` is perfectly even, and `FrozenTopK` is a learned router before its first step. All but the last weight the
k experts of a token equally and have no bias to balance with.

Shape suffixes: T tokens, K experts per token, E experts, D model width, P planes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.hooks.contracts import Routing
from penstock.routers.keyed import keys_of_integers, keys_of_rows, uniform
from penstock.routers.topk import SigmoidTopK, check_k, no_autocast


class AlikeRouter(nn.Module):
    """Every expert has the score 1 / E, and every choice the weight `scale` / k."""

    e_score_correction_bias = None

    def __init__(self, hidden_size: int, experts: int, *, k: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        check_k(k, experts)
        self.hidden_size, self.experts, self.k, self.scale = hidden_size, experts, k, scale

    def routing_to(self, expert_TK: Tensor) -> Routing:
        logits_TE = torch.zeros(len(expert_TK), self.experts, dtype=torch.float32, device=expert_TK.device)
        weight_TK = torch.full_like(expert_TK, self.scale / self.k, dtype=torch.float32)
        return Routing(expert_TK, weight_TK, logits_TE, torch.full_like(logits_TE, 1 / self.experts))

    def extra_repr(self) -> str:
        return f"{self.k} of {self.experts} experts"


class UnlearnedRouter(AlikeRouter, ABC):
    """Chooses by a fixed rule over hidden states."""

    @abstractmethod
    def experts_of(self, hidden_TD: Tensor) -> Tensor:
        """int64 [T, K] of fp32 hidden states."""

    def forward(self, hidden_TD: Tensor) -> Routing:
        with torch.no_grad(), no_autocast(hidden_TD.device.type):
            return self.routing_to(self.experts_of(hidden_TD.float()))


class TokenHash(AlikeRouter):
    """Hash layers as published (arXiv 2106.04426): k experts that depend only on a token's id.

    The published table draws an expert for each id at random. Here the draw is a function of the id and `seed`, so no
    table has to be stored or sized by the vocabulary. Layers with different seeds draw different experts.
    """

    asks = frozenset({"token_T"})

    def __init__(self, hidden_size: int, experts: int, *, k: int = 1, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__(hidden_size, experts, k=k, scale=scale)
        self.seed = seed

    def forward(self, hidden_TD: Tensor, *, token_T: Tensor) -> Routing:
        return self.routing_to(uniform(keys_of_integers(token_T, self.seed), self.experts).topk(self.k, dim=-1).indices)


class Random(UnlearnedRouter):
    """k random experts for every hidden state. The draw is a function of its bits and `seed` (see `keyed`), so the
    smallest change draws again, but a pass can be repeated."""

    def __init__(self, hidden_size: int, experts: int, *, k: int = 2, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__(hidden_size, experts, k=k, scale=scale)
        self.seed = seed

    def experts_of(self, hidden_TD: Tensor) -> Tensor:
        return uniform(keys_of_rows(hidden_TD, self.seed), self.experts).topk(self.k, dim=-1).indices


class Hash(UnlearnedRouter):
    """k experts by the side of `planes` random planes on which a hidden state lies.

    Hash layers (arXiv 2106.04426) hash the token's id, as `TokenHash` does; this one hashes hidden states by random
    hyperplanes, so similar states share their experts. 2^planes buckets are scattered over the experts: few planes give
    uneven load, many are as good as random.
    """

    plane_PD: Tensor

    def __init__(self, hidden_size: int, experts: int, *, k: int = 2, scale: float = 1.0, planes: int = 8) -> None:
        super().__init__(hidden_size, experts, k=k, scale=scale)
        if not 1 <= planes <= 32:
            raise ValueError(f"planes={planes}: choose between 1 and 32")
        self.planes = planes
        self.register_buffer("plane_PD", torch.empty(planes, hidden_size, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the planes."""
        nn.init.normal_(self.plane_PD)

    def experts_of(self, hidden_TD: Tensor) -> Tensor:
        above_TP = functional.linear(hidden_TD, self.plane_PD.float()) > 0
        bucket_T = (above_TP.long() << torch.arange(self.planes, device=hidden_TD.device)).sum(dim=-1)
        return uniform(keys_of_integers(bucket_T, 0), self.experts).topk(self.k, dim=-1).indices


class RoundRobin(UnlearnedRouter):
    """Token t of a batch goes to the experts t*k, t*k + 1, ... modulo E: even to within one, for any text. When
    decoding one token at a time, every token is the first of its batch."""

    depends_on_batch = True

    def experts_of(self, hidden_TD: Tensor) -> Tensor:
        slots = torch.arange(len(hidden_TD) * self.k, device=hidden_TD.device)
        return (slots % self.experts).view(-1, self.k)


class FrozenTopK(SigmoidTopK):
    """`sigmoid-topk` whose weight is drawn and never trained: a buffer, not a parameter. A learned router that is not
    better than this one has learned nothing."""

    def register_gate(self) -> None:
        self.register_buffer("weight", torch.empty(self.experts, self.hidden_size, dtype=torch.float32))
