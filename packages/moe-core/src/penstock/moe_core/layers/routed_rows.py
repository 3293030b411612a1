"""Selects the rows that a mixture layer routes: those of real tokens, with the inputs that the router asks for.

Padding is removed before the router and put back after the experts, so it never takes up expert capacity.

Shape suffixes: B batch, S sequence, T = B*S positions, R real positions, K experts per token, E experts, D
model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.contracts import AskingRouter, Inputs, Router, Routing
from penstock.hooks.problems import Problem, ProblemError


@dataclass(frozen=True, slots=True)
class RoutedRows:
    """The positions of one pass as its routers see them. `real_R` holds the indices of real ones; None: all of T."""

    token_T: Tensor
    real_R: Tensor | None
    expert_BSK: Mapping[int, Tensor]

    @classmethod
    def of(cls, inputs: Inputs, routers: Iterable[int]) -> RoutedRows:
        """Raises `ProblemError` if experts are given for a layer that is not one of `routers`."""
        unknown = sorted((inputs.expert_BSK or {}).keys() - set(routers))
        if unknown:
            what = f"no router in layer {', '.join(map(str, unknown))}"
            raise ProblemError(Problem("unsupported", what, "inputs.expert_BSK", "remove the layer"))
        real_R = None if inputs.real_BS is None else inputs.real_BS.flatten().nonzero().squeeze(1)
        return cls(inputs.token_BS.flatten(), real_R, inputs.expert_BSK or {})

    def mixture(
        self, layer: int, router: Router, experts: Callable[[Tensor, Routing], Tensor], x_BSD: Tensor
    ) -> tuple[Tensor, Routing]:
        """The expert outputs of one layer for real tokens, 0 for padding, and the routing of all positions."""
        x_TD = x_BSD.flatten(0, -2)
        asked = self._asked(layer, router, len(x_TD))
        if self.real_R is None:
            routing = router(x_TD, **asked)
            return experts(x_TD, routing).view_as(x_BSD), routing
        self._require_a_row_each(len(x_TD))
        x_RD = x_TD.index_select(0, self.real_R)
        routing = router(x_RD, **asked)
        out_TD = torch.zeros_like(x_TD).index_copy(0, self.real_R, experts(x_RD, routing))
        return out_TD.view_as(x_BSD), self._over_all_positions(routing)

    def _asked(self, layer: int, router: Router, rows: int) -> dict[str, Any]:
        asks = router.asks if isinstance(router, AskingRouter) else frozenset[str]()
        given_BSK = self.expert_BSK.get(layer)
        if given_BSK is not None and "expert_TK" not in asks:
            what = f"the router of layer {layer} ({type(router).__name__}) does not accept given experts"
            raise ProblemError(Problem("unsupported", what, "inputs.expert_BSK", "remove the layer"))
        asked = {"token_T": self._real(self.token_T)} if "token_T" in asks else {}
        if asked:
            self._require_a_row_each(rows)
        if given_BSK is None:
            return asked
        given_TK = given_BSK.flatten(0, -2)
        _require_choice(layer, router, given_TK, rows)
        return {**asked, "expert_TK": self._real(given_TK)}

    def _real(self, each_T: Tensor) -> Tensor:
        return each_T if self.real_R is None else each_T.index_select(0, self.real_R)

    def _require_a_row_each(self, rows: int) -> None:
        if rows != len(self.token_T):
            raise ValueError(
                f"a layer got {rows} rows for {len(self.token_T)} positions, so real positions cannot be identified"
            )

    def _over_all_positions(self, routing: Routing) -> Routing:
        """Padding rows have no kept or dropped slots."""
        kept_RK = routing.kept_TK
        return Routing(
            expert_TK=self._spread(routing.expert_TK),
            weight_TK=self._spread(routing.weight_TK),
            logits_TE=self._spread(routing.logits_TE),
            score_TE=self._spread(routing.score_TE),
            kept_TK=self._spread(torch.ones_like(routing.expert_TK, dtype=torch.bool) if kept_RK is None else kept_RK),
            dropped_TK=None if routing.dropped_TK is None else self._spread(routing.dropped_TK),
        )

    def _spread(self, each_R: Tensor) -> Tensor:
        assert self.real_R is not None
        return each_R.new_zeros(len(self.token_T), *each_R.shape[1:]).index_copy(0, self.real_R, each_R)


def _require_choice(layer: int, router: Router, expert_TK: Tensor, rows: int) -> None:
    """Raises `ProblemError` if these are not `k` experts of the router for each of the positions."""
    wanted, given = (rows, router.k), tuple(expert_TK.shape)
    if given != wanted or expert_TK.dtype != torch.int64:
        what = f"layer {layer} takes int64 {list(wanted)} over all positions, not {expert_TK.dtype} {list(given)}"
    elif expert_TK.numel() and (expert_TK.min() < 0 or expert_TK.max() >= router.experts):
        what = f"layer {layer} has experts 0 to {router.experts - 1}, and some given are not among them"
    else:
        return
    raise ProblemError(Problem("bad-value", what, "inputs.expert_BSK", "give the experts that this model chose"))
