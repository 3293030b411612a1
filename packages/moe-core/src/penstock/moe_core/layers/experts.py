"""Routed experts: all of a layer's experts as two stacked tensors, and the sort-compute-unsort that feeds them.

Shape suffixes: T tokens, K experts per token, N kept assignments (T*K if every slot is kept), E experts, D model
width, H expert width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterLayout, ParameterRole, Routing
from penstock.moe_core.layers.dispatch import combine, dispatch
from penstock.moe_core.layers.expert_backends import BACKENDS, Backend, Operand, choose
from penstock.moe_core.layers.mlp import swiglu
from penstock.moe_core.layers.norm import rms_norm
from penstock.moe_core.layers.site import Site, Sites


class SortedRows(NamedTuple):
    """The kept assignments, one row each, sorted by expert. `slot_N` is the index of each in the T*K slots, and
    `counts_E` the number of rows of each expert. `position` and `start_T` hold the rows of each token, as in
    `dispatch`."""

    slot_N: Tensor
    counts_E: Tensor
    position: Tensor
    start_T: Tensor | None


class Experts(Sites):
    """E SwiGLU experts. `gate_up_proj` [E, 2H, D] holds the gate in its first H rows, `down_proj` [E, D, H].

    With `sub_norm_epsilon`, an RMSNorm precedes the down projection, with a gain [E, H] named `sub_norm`.

    `backend` names one of `penstock.moe_core.layers.expert_backends`; None chooses the first one that supports the
    operands.
    """

    sites = {"gate_up_proj": "gate_up_site", "down_proj": "down_site"}

    def __init__(
        self,
        experts: int,
        hidden_size: int,
        intermediate_size: int,
        backend: str | None = None,
        *,
        sub_norm_epsilon: float | None = None,
    ) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden_size, intermediate_size))
        gate_and_up = ParameterLayout((("gate", intermediate_size), ("up", intermediate_size)))
        self.gate_up_site = Site(ParameterRole.EXPERT, gate_and_up)
        self.down_site = Site(ParameterRole.EXPERT)
        self.sub_norm = None if sub_norm_epsilon is None else nn.Parameter(torch.ones(experts, intermediate_size))
        self.sub_norm_epsilon = sub_norm_epsilon or 0.0
        self.backend = None if backend is None else BACKENDS[backend]

    def effective_weights(self) -> tuple[Tensor, Tensor]:
        """The weights that the experts compute with."""
        return self.effective("gate_up_proj"), self.effective("down_proj")

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's kept experts, [T, D] in x's dtype; 0 if a token has none."""
        tokens, k = routing.expert_TK.shape
        if tokens == 0:
            return self._nothing(x_TD)
        gate_up_EFD, down_EDH = (self._operand(each, x_TD.dtype) for each in ("gate_up_proj", "down_proj"))
        rows = sorted_rows(routing, len(self.down_proj))
        token_N = rows.slot_N // k

        x_ND = dispatch(self.read(x_TD, "gate_up_proj"), token_N, rows.position, rows.start_T)
        multiply = self._backend(x_ND, down_EDH, rows.counts_E).multiplied
        # Weighted here, where rows are H wide, not after the second product, where they are D wide.
        weight_N = routing.weight_TK.flatten().index_select(0, rows.slot_N).to(x_TD.dtype)
        hidden_NH = self._hidden(multiply(x_ND, gate_up_EFD, rows.counts_E), weight_N, rows.counts_E)
        hidden_NH = self.read(hidden_NH, "down_proj")
        return combine(multiply(hidden_NH, down_EDH, rows.counts_E), token_N, rows.position, rows.start_T)

    def _nothing(self, x_TD: Tensor) -> Tensor:
        """No rows, but the weights still get a gradient."""
        return x_TD if self.down_site.product else x_TD + self.down_proj[:0].sum()

    def _hidden(self, gate_up_N2H: Tensor, weight_N: Tensor, counts_E: Tensor) -> Tensor:
        """The weighted input of the down projection. A norm comes before the weight, which it would cancel."""
        if self.sub_norm is None:
            return swiglu(gate_up_N2H, weight_N)
        hidden_NH, dtype = swiglu(gate_up_N2H), gate_up_N2H.dtype
        gain_NH = self.sub_norm.to(dtype).repeat_interleave(counts_E, dim=0)
        ones_H = torch.ones_like(self.sub_norm[0], requires_grad=False)
        return rms_norm(hidden_NH, ones_H, self.sub_norm_epsilon) * gain_NH * weight_N[:, None]

    def _operand(self, parameter: str, dtype: torch.dtype) -> Operand:
        return self.site_of(parameter).product or self.effective(parameter).to(dtype)

    def _backend(self, x_ND: Tensor, weight_EOI: Operand, counts_E: Tensor) -> Backend:
        if len(x_ND) == 0 or not isinstance(weight_EOI, Tensor):
            return BACKENDS["loop"]  # the only backend that accepts zero rows and gives gradients for them
        return self.backend or choose(x_ND, weight_EOI, counts_E)


def sorted_rows(routing: Routing, experts: int) -> SortedRows:
    """Sorts the assignments that are kept; ties keep slot order."""
    if routing.kept_TK is None:
        expert_N = routing.expert_TK.flatten()
        order_N = expert_N.argsort(stable=True)
        position_TK = _inverse(order_N).view_as(routing.expert_TK)
        return SortedRows(order_N, torch.bincount(expert_N, minlength=experts), position_TK, None)
    slot_N = routing.kept_TK.flatten().nonzero().squeeze(1)
    expert_N = routing.expert_TK.flatten().index_select(0, slot_N)
    order_N = expert_N.argsort(stable=True)
    kept_T = routing.kept_TK.sum(dim=1)
    counts_E = torch.bincount(expert_N, minlength=experts)
    return SortedRows(slot_N.index_select(0, order_N), counts_E, _inverse(order_N), kept_T.cumsum(0) - kept_T)


def _inverse(order_N: Tensor) -> Tensor:
    """The inverse permutation."""
    return torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device))
