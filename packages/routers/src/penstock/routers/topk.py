"""Top-k routers: GLM-4.x / DeepSeek-V3 sigmoid routing, and other scores with the same selection path.

All follow `Glm4MoeTopkRouter` of transformers exactly, in the same order, because a router that rounds differently
sends tokens to other experts:

- Logits, scores and weights are fp32 whatever the model's dtype, also under autocast.
- `e_score_correction_bias` affects the choice but never the weights, and stays fp32 when the model is cast:
  bf16 holds 8 bits, and steps of 0.001 on a bias near 1 would be lost.
- Groups that are not kept are filled with -inf. Filling with 0, as old releases did, picks experts of dropped groups
  if the kept ones have a negative biased score.

Additions are off by default: temperature, exploration noise in training, a capacity, and experts that are given instead
of chosen (replay).

Shape suffixes: T tokens, D model width, E experts, K experts per token, G groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.hooks.contracts import Routing
from penstock.routers.capacity import tokens_an_expert, within_capacity
from penstock.routers.keyed import gumbel, keys_of_rows

# The initializer_range of GLM-4.x.
INITIAL_STD = 0.02


class TopKRouter(nn.Module, ABC):
    """Chooses the `k` experts of highest biased score; subclasses define the score.

    `k` of `experts` per token. `normalize`: weights of a token sum to `scale`. Experts form `groups` equal groups of
    neighbours; a token chooses from the `groups_kept` groups with the highest sum of their two best biased scores
    (node-limited routing, arXiv 2412.19437 section 2.1.2). Scores are computed from logits / `temperature`.

    `noise` times Gumbel noise is added to the logits for the choice of experts in training, never to the weights: 1.0
    with softmax scores and no bias draws k experts from the softmax. The noise is a function of the token's own logits
    and `noise_seed` (see `keyed`), so it has no state. An expert takes at most `capacity` times the even share of a
    batch; later tokens are dropped (`Routing.dropped_TK`), in evaluation and in training. None drops nothing.

    Raises ValueError for numbers that do not fit together. `score_function` names the score, so that a checkpoint can
    record the router it needs. `weight` [E, D] is an fp32 parameter, `e_score_correction_bias` [E] an fp32 buffer.
    """

    score_function: ClassVar[str]
    asks = frozenset({"expert_TK"})
    weight: Tensor
    e_score_correction_bias: Tensor

    def __init__(
        self,
        hidden_size: int,
        experts: int,
        *,
        k: int = 2,
        normalize: bool = True,
        scale: float = 1.0,
        groups: int = 1,
        groups_kept: int = 1,
        temperature: float = 1.0,
        noise: float = 0.0,
        noise_seed: int = 0,
        capacity: float | None = None,
    ) -> None:
        super().__init__()
        check_k(k, experts)
        _check_groups(experts, k, groups, groups_kept)
        _check_positive(temperature=temperature, capacity=capacity)
        self.hidden_size = hidden_size
        self.experts = experts
        self.k = k
        self.normalize = normalize
        self.scale = scale
        self.groups = groups
        self.groups_kept = groups_kept
        self.temperature = temperature
        self.noise = noise
        self.noise_seed = noise_seed
        self.capacity = capacity
        self.register_buffer("e_score_correction_bias", torch.empty(experts, dtype=torch.float32))
        self.register_gate()
        self.reset_parameters()

    @property
    def depends_on_batch(self) -> bool:
        """A capacity is shared by the tokens of a pass."""
        return self.capacity is not None

    def register_gate(self) -> None:
        """Creates the tensors of `gate`, in fp32; `reset_parameters` fills them."""
        self.weight = nn.Parameter(torch.empty(self.experts, self.hidden_size, dtype=torch.float32))

    def reset_parameters(self) -> None:
        """Draws the weight from a normal distribution (std 0.02) and clears the bias."""
        nn.init.normal_(self.weight, std=INITIAL_STD)
        nn.init.zeros_(self.e_score_correction_bias)

    def gate(self, hidden_TD: Tensor) -> Tensor:
        """fp32 logits [T, E] of fp32 hidden states."""
        return functional.linear(hidden_TD, self.weight.float())

    @abstractmethod
    def scores(self, logits_TE: Tensor) -> Tensor:
        """fp32 affinities [T, E] of fp32 logits."""

    def choice_scores(self, logits_TE: Tensor, score_TE: Tensor) -> Tensor:
        """[T, E], the scores that choose experts, before the bias is added; `logits_TE` are after temperature."""
        if not (self.training and self.noise > 0):
            return score_TE
        noise_TE = gumbel(keys_of_rows(logits_TE, self.noise_seed), self.experts)
        return self.scores(logits_TE + self.noise * noise_TE)

    def forward(self, hidden_TD: Tensor, *, expert_TK: Tensor | None = None) -> Routing:
        """Routes hidden states [T, D] of any floating dtype; T may be 0. The order of a token's experts is free.

        If `expert_TK` is given, no experts are chosen; the weights come from the current scores, with a gradient.
        """
        with no_autocast(hidden_TD.device.type):
            logits_TE = self.gate(hidden_TD.float())
        warm_TE = logits_TE if self.temperature == 1 else logits_TE / self.temperature
        score_TE = self.scores(warm_TE)
        if expert_TK is None:
            expert_TK = self._chosen(warm_TE, score_TE)
        weight_TK = score_TE.gather(-1, expert_TK)
        if self.normalize:
            weight_TK = weight_TK / (weight_TK.sum(dim=-1, keepdim=True) + 1e-20)
        routing = Routing(expert_TK, weight_TK * self.scale, logits_TE, score_TE)
        return routing if self.capacity is None else self._within_capacity(routing, self.capacity)

    def _chosen(self, warm_TE: Tensor, score_TE: Tensor) -> Tensor:
        choice_TE = self._within_kept_groups(self.choice_scores(warm_TE, score_TE) + self.e_score_correction_bias)
        return choice_TE.topk(self.k, dim=-1, sorted=False).indices

    def _within_capacity(self, routing: Routing, factor: float) -> Routing:
        tokens = routing.expert_TK.shape[0]
        capacity = tokens_an_expert(factor, tokens, self.k, self.experts)
        kept_TK = within_capacity(routing.expert_TK, experts=self.experts, capacity=capacity)
        weight_TK = routing.weight_TK.masked_fill(~kept_TK, 0.0)
        return replace(routing, weight_TK=weight_TK, kept_TK=kept_TK, dropped_TK=~kept_TK)

    def _within_kept_groups(self, choice_TE: Tensor) -> Tensor:
        if self.groups == 1:
            return choice_TE
        choice_TGE = choice_TE.unflatten(-1, (self.groups, -1))
        group_score_TG = choice_TGE.topk(2, dim=-1).values.sum(dim=-1)
        kept = group_score_TG.topk(self.groups_kept, dim=-1, sorted=False).indices
        dropped_TG = torch.ones_like(group_score_TG, dtype=torch.bool).scatter(-1, kept, False)
        return choice_TGE.masked_fill(dropped_TG.unsqueeze(-1), float("-inf")).flatten(-2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Every cast and move of a module goes through here: the bias follows the device and keeps its dtype and bits.
        bias_E = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved_E = self.e_score_correction_bias
        if moved_E.dtype != torch.float32:
            self.e_score_correction_bias = bias_E.to(moved_E.device)
        return self

    def extra_repr(self) -> str:
        kept = f", {self.groups_kept} of {self.groups} groups" if self.groups > 1 else ""
        return f"{self.k} of {self.experts} experts{kept}, hidden_size={self.hidden_size}"


class SigmoidTopK(TopKRouter):
    """Affinity sigmoid(logit), independent of the other experts: DeepSeek-V3 (arXiv 2412.19437 Eq. 15), GLM-4.5."""

    score_function = "sigmoid"

    def scores(self, logits_TE: Tensor) -> Tensor:
        return logits_TE.sigmoid()


class SoftmaxTopK(TopKRouter):
    """Affinity softmax(logits) over all experts: Mixtral, Qwen3-MoE, OLMoE."""

    score_function = "softmax"

    def scores(self, logits_TE: Tensor) -> Tensor:
        return logits_TE.softmax(dim=-1)


class SqrtSoftplusTopK(TopKRouter):
    """Affinity sqrt(softplus(logit)): like a sigmoid for low logits but without its ceiling, so that a better expert
    still scores higher (DeepSeek-V4, Megatron-Core)."""

    score_function = "sqrtsoftplus"

    def scores(self, logits_TE: Tensor) -> Tensor:
        # The floor keeps the derivative of the root finite when softplus underflows; it is below any normal score.
        return functional.softplus(logits_TE).clamp(min=1e-20).sqrt()


def check_k(k: int, experts: int) -> None:
    """Raises ValueError for a `k` that a router with this number of experts cannot have."""
    if not 1 <= k <= experts:
        raise ValueError(f"k={k} of experts={experts}: choose k between 1 and the number of experts")


def no_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Keeps the gate in fp32."""
    available = torch.amp.is_autocast_available(device_type)  # the meta device has none and refuses the context
    return torch.autocast(device_type, enabled=False) if available else nullcontext()


def _check_groups(experts: int, k: int, groups: int, groups_kept: int) -> None:
    if groups < 1 or experts % groups:
        raise ValueError(f"groups={groups} does not divide experts={experts}: choose a divisor")
    if not 1 <= groups_kept <= groups:
        raise ValueError(f"groups_kept={groups_kept} of groups={groups}: choose between 1 and the number of groups")
    group_size = experts // groups
    if groups > 1 and group_size < 2:
        raise ValueError(
            f"experts={experts} in groups={groups} is {group_size} per group: a group is ranked by its two best "
            "experts, so it needs at least 2"
        )
    if k > groups_kept * group_size:
        raise ValueError(
            f"k={k} exceeds the {groups_kept * group_size} experts that groups_kept={groups_kept} groups of "
            f"{group_size} leave: keep more groups or lower k"
        )


def _check_positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise ValueError(f"{name}={number}: choose a number above 0")
