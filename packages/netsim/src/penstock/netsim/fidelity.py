"""How long an exchange takes: three models behind one call.

| fidelity | a message waits for | costs |
|---|---|---|
| `alpha-beta` | the busiest link of its route to carry all its bytes | one pass over the messages |
| `loggp` | its turn at the sender's and at the receiver's port, in order | one sort of the messages |
| `fluid` | its max-min fair share of each link, until its own bytes have arrived | one event per finished message |

alpha-beta is exact if one link limits all its messages; it does not model when links fall idle. LogGP models the order
of messages and overheads, but no links except the ports. Fluid models every link at every moment, but no order.

Shape suffixes: G GPUs, L links, F flows, N exchanges, E events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.netsim.fluid import fluid, link_loads
from penstock.netsim.network import EvenLoads, Floats, Flows, Indices, Network
from penstock.netsim.port import Port

Fidelity = Literal["alpha-beta", "loggp", "fluid"]
FIDELITIES: tuple[Fidelity, ...] = get_args(Fidelity)

FLUID_TOLERANCE = 0.01
"""Above `FLUID_EXACT` flows, flows that end within this share of the elapsed time count as one event;
tests/benchmarks/netsim.py measures the loss of accuracy."""
FLUID_EXACT = 2000


@dataclass(frozen=True, slots=True)
class Timeline:
    """`use_EL`: the share of each link's capacity in use from `begin_E` to the next begin, or to the end."""

    begin_E: Floats
    use_EL: Floats


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange: when each message arrived and each GPU had sent and received everything, in seconds."""

    flows: Flows
    finish_F: Floats
    finish_G: Floats
    load_L: Floats
    timeline: Timeline | None = None

    @property
    def seconds(self) -> float:
        return float(self.finish_G.max())

    @property
    def slowest_gpu(self) -> int:
        return int(self.finish_G.argmax())


def exchange(network: Network, flows: Flows, fidelity: Fidelity | str = "alpha-beta") -> Exchange:
    """Times an exchange; raises `ProblemError` for an unknown fidelity."""
    if fidelity not in FIDELITIES:
        what = f"unknown fidelity '{fidelity}'"
        raise ProblemError(Problem("unknown-fidelity", what, "fidelity", did_you_mean(fidelity, FIDELITIES)))
    models: dict[str, Callable[[Network, Flows], Exchange]] = {
        "alpha-beta": alpha_beta,
        "loggp": loggp,
        "fluid": fluid_exchange,
    }
    return models[fidelity](network, flows)


def alpha_beta(network: Network, flows: Flows) -> Exchange:
    """A message arrives when the busiest link of its route has carried all bytes of that link."""
    link_FH = network.route(flows.source_F, flows.target_F)
    load_L = link_loads(link_FH, flows.bytes_F, len(network.capacity_L))
    busy_L = np.append(load_L / network.capacity_L, 0.0)
    finish_F = network.start_seconds(flows) + busy_L[link_FH].max(axis=1, initial=0.0)
    return _exchange(network, flows, finish_F, load_L)


def loggp(network: Network, flows: Flows) -> Exchange:
    """LogGP: latency L, overhead o per message, G seconds per byte, one message at a time at each end of each port.

    GPU g sends to g + 1, g + 2, ... in turn. Its messages inside the node and between nodes use two ports at once. A
    receiver takes messages in the order in which they begin to arrive. Source: Alexandrov et al., LogGP (1995).
    """
    crosses_F = network.crosses(flows)
    finish_F = np.zeros(len(flows))
    for port, level_F in ((network.inside, ~crosses_F), (network.between, crosses_F)):
        rows = np.flatnonzero(level_F)
        if len(rows):
            finish_F[rows] = _ports_in_turn(network.gpus, flows, rows, port)
    load_L = link_loads(network.route(flows.source_F, flows.target_F), flows.bytes_F, len(network.capacity_L))
    return _exchange(network, flows, finish_F, load_L)


def _ports_in_turn(gpus: int, flows: Flows, rows: Indices, port: Port) -> Floats:
    source_F, target_F, bytes_F = flows.source_F[rows], flows.target_F[rows], flows.bytes_F[rows]
    wire_F = bytes_F / port.bandwidth
    latency = float(port.start_seconds(1, bytes_F.max()))
    turn_F = np.lexsort(((target_F - source_F) % gpus, source_F))
    arrives_F = latency + _begins(source_F, turn_F, np.zeros(len(rows)), wire_F + port.peer_overhead)
    arrival_F = np.lexsort((arrives_F, target_F))
    return _begins(target_F, arrival_F, arrives_F, wire_F) + wire_F


def _begins(owner_F: Indices, order_F: Indices, ready_F: Floats, needs_F: Floats) -> Floats:
    """When each job begins if each owner does its jobs one by one, none before it is ready; `order_F` is by owner.

    A job ends at the maximum, over itself and its owner's earlier jobs, of that job's ready time plus all needs since.
    """
    owner, ready, needs = owner_F[order_F], ready_F[order_F], needs_F[order_F]
    new = np.append(True, owner[1:] != owner[:-1])
    group = np.cumsum(new) - 1
    before = np.cumsum(needs) - needs
    before -= before[new][group]
    lead = ready - before
    # A running maximum per owner: owners are shifted apart by the range of all leads, and shifted back afterwards.
    lift = group * np.ptp(lead)
    begins = np.empty(len(order_F))
    begins[order_F] = np.maximum.accumulate(lead + lift) - lift + before
    return begins


def fluid_exchange(network: Network, flows: Flows, tolerance: float | None = None) -> Exchange:
    """Max-min fair sharing; above `FLUID_EXACT` flows, ends within `FLUID_TOLERANCE` of each other are one event."""
    if tolerance is None:
        tolerance = FLUID_TOLERANCE if len(flows) > FLUID_EXACT else 0.0
    link_FH = network.route(flows.source_F, flows.target_F)
    result = fluid(link_FH, flows.bytes_F, network.capacity_L, tolerance)
    finish_F = network.start_seconds(flows) + result.finish_F
    load_L = link_loads(link_FH, flows.bytes_F, len(network.capacity_L))
    return _exchange(network, flows, finish_F, load_L, Timeline(result.begin_E, result.use_EL))


def _exchange(
    network: Network, flows: Flows, finish_F: Floats, load_L: Floats, timeline: Timeline | None = None
) -> Exchange:
    finish_G = np.zeros(network.gpus)
    np.maximum.at(finish_G, flows.source_F, finish_F)
    np.maximum.at(finish_G, flows.target_F, finish_F)
    return Exchange(flows, finish_F, finish_G, load_L, timeline)


def even_alpha_beta_seconds(network: Network, loads: EvenLoads, bytes_NG: Floats) -> Floats:
    """`alpha_beta` of N exchanges in which every GPU sends `bytes_NG[n, g]` to GPU g, without building their messages.

    Equal to `alpha_beta(...).seconds` of the matrices with these rows. `loads` are the network's `even_loads`.
    """
    sends_NG = (bytes_NG > 0).astype(np.float64)
    busy_NL = bytes_NG @ (loads.inside_LG + loads.between_LG).T / network.capacity_L
    seconds_N = np.zeros(len(bytes_NG))
    for port, level_LG, inside in ((network.inside, loads.inside_LG, True), (network.between, loads.between_LG, False)):
        busiest_N = np.where(sends_NG @ level_LG.T > 0, busy_NL, 0.0).max(axis=1)
        start_N = _even_starts(network, bytes_NG, port, inside)
        seconds_N = np.maximum(seconds_N, np.where(busiest_N > 0, start_N + busiest_N, 0.0))
    return seconds_N


def _even_starts(network: Network, bytes_NG: Floats, port: Port, inside: bool) -> Floats:
    """`start_N`: with the largest message and the most peers that a GPU has at this level."""
    sends_NG = bytes_NG > 0
    node_G = network.node_G
    members_NM = np.add.reduceat(sends_NG, np.flatnonzero(np.diff(node_G, prepend=-1)), axis=1, dtype=np.int64)
    if inside:
        peers_N = (members_NM[:, node_G] - sends_NG).max(axis=1)
    else:
        peers_N = sends_NG.sum(axis=1) - members_NM.min(axis=1)
    return port.start_seconds(peers_N, bytes_NG.max(axis=1))
