"""Flows as fluids: at every moment the links' capacities are shared max-min fairly, until a flow ends.

Rates are max-min fair if no flow can get more without taking from a flow that has no more than it (Bertsekas and
Gallager, Data Networks, 6.5.2). They are found by progressive filling: a link whose fair share is the smallest on the
routes of all its flows fixes their rates; the remaining capacity of other links is shared among the other flows. Many
links fix rates in one round, because links without a common flow are independent: 65,000 flows on 1,024 links take
about ten rounds.

Shape suffixes: F flows, L links, H hops, N entries (a flow on a link), E events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_EQUAL = 1e-12  # relative; shares of links with the same flows differ by rounding
_YOUNG = 10  # an event's window is at most a tenth of the elapsed time, so that short flows keep their own times
_SLACK = 5  # links within 5 tolerances of a bottleneck fix their flows in the same round


@dataclass(frozen=True, slots=True)
class FluidResult:
    """When each flow's last byte arrived, and what each link carried between events.

    `use_EL` is the share of each link's capacity in use from `begin_E` to the next event.
    """

    finish_F: Floats
    begin_E: Floats
    use_EL: Floats


class _Incidence:
    """Which flows use which links, sorted by link, so that a sum or minimum over a link's flows is one `reduceat`.

    Only links that some flow uses are kept (U of them). `place_HF` are each flow's links among them; U means no link.
    """

    def __init__(self, link_FH: Indices, links: int) -> None:
        flow_N, hop_N = np.nonzero(link_FH >= 0)
        link_N = link_FH[flow_N, hop_N]
        self.flow_N = flow_N[np.argsort(link_N, kind="stable")]
        count_L = np.bincount(link_N, minlength=links)
        self.used = np.flatnonzero(count_L)
        self.start_U = np.cumsum(count_L[self.used]) - count_L[self.used]
        place_L = np.full(links + 1, len(self.used))
        place_L[self.used] = np.arange(len(self.used))
        self.place_HF = np.ascontiguousarray(place_L[link_FH].T)  # link -1 is the last place, which means no link

    def over_links(self, reduce: np.ufunc, values_F: Floats) -> Floats:
        return reduce.reduceat(values_F[self.flow_N], self.start_U)

    def over_routes(self, reduce: np.ufunc, values_U: NDArray[Any], of_no_link: float) -> NDArray[Any]:
        values = np.append(values_U, of_no_link).astype(values_U.dtype)
        result_F = values[self.place_HF[0]]
        for place_F in self.place_HF[1:]:
            reduce(result_F, values[place_F], out=result_F)
        return result_F


def max_min_rates(link_FH: Indices, capacity_L: Floats) -> Floats:
    """`rate_F`, max-min fair, in the unit of `capacity_L`; infinite for a flow without links."""
    if not len(link_FH):
        return np.zeros(0)
    return _rates(_Incidence(link_FH, len(capacity_L)), capacity_L, np.ones(len(link_FH), dtype=bool), 0.0)


def _rates(incidence: _Incidence, capacity_L: Floats, open_F: NDArray[np.bool_], slack: float) -> Floats:
    """Rates of the open flows; the others use no capacity, and their rates are meaningless."""
    rate_F = np.full(len(open_F), np.inf)
    if not len(incidence.used):
        return rate_F
    left_U = capacity_L[incidence.used].astype(np.float64)
    limited_F = incidence.over_routes(np.logical_or, np.ones(len(left_U), dtype=bool), False)
    open_F = open_F & limited_F
    while open_F.any():
        count_U = incidence.over_links(np.add, open_F.astype(np.float64))
        share_U = np.where(count_U > 0, left_U / np.maximum(count_U, 1), np.inf)
        least_F = incidence.over_routes(np.minimum, share_U, np.inf)
        least_F[~open_F] = np.inf
        least_U = incidence.over_links(np.minimum, least_F)
        full_U = (count_U > 0) & (share_U <= least_U * (1 + max(slack, _EQUAL)))
        fixed_F = open_F & incidence.over_routes(np.logical_or, full_U, False)
        rate_F[fixed_F] = least_F[fixed_F]
        left_U = np.maximum(left_U - incidence.over_links(np.add, np.where(fixed_F, rate_F, 0.0)), 0.0)
        open_F = open_F & ~fixed_F
    return rate_F


def fluid(link_FH: Indices, bytes_F: Floats, capacity_L: Floats, tolerance: float = 0.0) -> FluidResult:
    """All flows start at the same time and end when their bytes have arrived; freed capacity is shared again.

    With a `tolerance`, flows that end within that share of the busiest link's time are one event. Each ends at its own
    moment, and the others continue as if all had ended at the mean moment, so early and late ends cancel on a link. In
    this way 65,000 ends become about 250 events. A flow without bytes or links ends at once.
    """
    finish_F = np.zeros(len(bytes_F))
    left_F = np.where((link_FH >= 0).any(axis=1), bytes_F, 0.0)
    alive = np.flatnonzero(left_F > 0)
    window = tolerance * float((link_loads(link_FH, bytes_F, len(capacity_L)) / capacity_L).max(initial=0.0))
    begins: list[float] = []
    uses: list[Floats] = []
    incidence, known = _Incidence(link_FH[alive], len(capacity_L)), alive
    now = 0.0
    while len(alive):
        if len(alive) < 0.8 * len(known):
            incidence, known = _Incidence(link_FH[alive], len(capacity_L)), alive
        open_F = left_F[known] > 0
        rate_F = _rates(incidence, capacity_L, open_F, _SLACK * tolerance)[open_F]
        needs_F = left_F[alive] / rate_F
        first = float(needs_F.min())
        ends_F = needs_F <= max(first * (1 + _EQUAL), min(window, (now + first) / _YOUNG))
        passed = float(np.average(needs_F[ends_F], weights=rate_F[ends_F]))
        moved_F = np.where(ends_F, left_F[alive], rate_F * passed)
        begins.append(now)
        uses.append(link_loads(link_FH[alive], rate_F, len(capacity_L)) / capacity_L)
        finish_F[alive[ends_F]] = now + needs_F[ends_F]
        left_F[alive] -= moved_F
        alive = alive[~ends_F]
        now += passed
    use_EL = np.array(uses) if uses else np.zeros((0, len(capacity_L)))
    return FluidResult(finish_F, np.array(begins), use_EL)


def link_loads(link_FH: Indices, bytes_F: Floats, links: int) -> Floats:
    """`load_L`: bytes of all flows that use each link."""
    on_FH = link_FH >= 0
    bytes_FH = np.broadcast_to(bytes_F[:, None], link_FH.shape)
    return np.bincount(link_FH[on_FH], bytes_FH[on_FH], minlength=links).astype(np.float64)
