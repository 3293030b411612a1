"""Routing by clusters: experts are the nearest of k-means centroids of the hidden states, updated online.

Shape suffixes: T tokens, E experts, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from penstock.routers.topk import TopKRouter


class Cluster(TopKRouter):
    """Top-k of the softmax over -|hidden - centroid|^2 / 2D.

    Centroids learn without gradients: forward passes with gradients only accumulate the sum of the hidden states
    nearest to each centroid, and `end_step`, once per optimizer step, moves each centroid towards their mean. Routing
    does not change between two steps, so a pass may be repeated; repeating doubles sum and count, but not the mean.

    `rate` is the fraction of the distance that a centroid moves per step: 0.05 forgets half in 14 steps. A centroid
    that is nearest to no token moves towards the mean of all tokens until it is nearest to some.
    """

    score_function = "cluster"
    centroid_ED: Tensor
    sum_ED: Tensor
    nearest_E: Tensor

    def __init__(
        self,
        hidden_size: int,
        experts: int,
        *,
        k: int = 2,
        normalize: bool = True,
        scale: float = 1.0,
        temperature: float = 1.0,
        rate: float = 0.05,
    ) -> None:
        super().__init__(hidden_size, experts, k=k, normalize=normalize, scale=scale, temperature=temperature)
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate}: choose between 0 and 1")
        self.rate = rate

    def register_gate(self) -> None:
        shape = (self.experts, self.hidden_size)
        self.register_buffer("centroid_ED", torch.empty(shape, dtype=torch.float32))
        self.register_buffer("sum_ED", torch.empty(shape, dtype=torch.float32), persistent=False)
        self.register_buffer("nearest_E", torch.empty(self.experts, dtype=torch.int64), persistent=False)

    def reset_parameters(self) -> None:
        """Draws centroids with the norm of normalised hidden states."""
        nn.init.normal_(self.centroid_ED)
        nn.init.zeros_(self.e_score_correction_bias)
        self._forget()

    def gate(self, hidden_TD: Tensor) -> Tensor:
        """-|hidden - centroid|^2 / 2D, without the term that is equal for all centroids."""
        centroid_ED = self.centroid_ED.float()
        logits_TE = (hidden_TD @ centroid_ED.T - centroid_ED.square().sum(dim=-1) / 2) / self.hidden_size
        if self.training and torch.is_grad_enabled():
            self._gather(hidden_TD.detach(), logits_TE.detach())
        return logits_TE

    def scores(self, logits_TE: Tensor) -> Tensor:
        return logits_TE.softmax(dim=-1)

    @torch.no_grad()
    def end_step(self, total: Callable[[Tensor], Tensor]) -> None:
        """Moves the centroids by the sums since the last step; `total` sums a tensor over ranks."""
        gathered = torch.cat((self.sum_ED.double(), self.nearest_E.double().unsqueeze(-1)), dim=-1)
        sum_ED, count_E1 = total(gathered).split((self.hidden_size, 1), dim=-1)
        mean_D = sum_ED.sum(dim=0) / count_E1.sum().clamp(min=1)
        target_ED = torch.where(count_E1 > 0, sum_ED / count_E1.clamp(min=1), mean_D)
        moved_ED = self.centroid_ED.double().lerp(target_ED, self.rate)
        self.centroid_ED.copy_(torch.where(count_E1.sum() > 0, moved_ED, self.centroid_ED.double()))
        self._forget()

    @torch.no_grad()
    def _gather(self, hidden_TD: Tensor, logits_TE: Tensor) -> None:
        nearest_T = logits_TE.argmax(dim=-1)
        self.sum_ED.index_add_(0, nearest_T, hidden_TD.to(self.sum_ED.dtype))
        self.nearest_E.index_add_(0, nearest_T, torch.ones_like(nearest_T))

    def _forget(self) -> None:
        nn.init.zeros_(self.sum_ED)
        nn.init.zeros_(self.nearest_E)
