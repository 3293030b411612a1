"""What a routing trace costs on a network: dispatch and combine time against that of perfectly balanced experts.

Shape suffixes: S steps, L layers, E experts, R expert copies, G GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.contracts import Placement, Topology
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.trace import RoutingTrace
from penstock.netsim.placement import replicate
from penstock.netsim.plan import Planner
from penstock.netsim.traffic import Batch, bytes_between_gpus, gpu_shares

Floats = NDArray[np.float64]


@runtime_checkable
class EvenSourcesTopology(Protocol):
    """A topology that times many all-to-alls at once, and for which the reverse exchange takes as long.

    Any other topology is asked for one matrix at a time.
    """

    def even_sources_seconds(self, bytes_NG: Floats) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds over all steps and layers."""

    mean: float
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Floats) -> Spread:
        p50, p99 = np.quantile(seconds, (0.5, 0.99))
        return cls(float(seconds.mean()), float(p50), float(p99), float(seconds.max()))


@dataclass(frozen=True, slots=True)
class SimulationRow:
    """One number of GPUs.

    `dispatch` and `combine` are seconds of one layer's exchange. `balanced_seconds` is their sum when every GPU's
    experts get the same share of the same bytes, and `slowdown` the mean measured sum over it (1 is perfect).
    `bytes_between_nodes` is sent by all GPUs together, in a layer's dispatch and combine, on average. `worst_layer`
    is the model's index of the layer with the largest mean time, `worst_layer_slowdown` its own slowdown.
    """

    gpus: int
    nodes: int
    dispatch: Spread
    combine: Spread
    balanced_seconds: float
    slowdown: float
    bytes_between_nodes: float
    worst_layer: int
    worst_layer_slowdown: float


def simulate(
    trace: RoutingTrace,
    topology: Topology,
    placement: Placement,
    *,
    gpus: Sequence[int],
    hidden_size: int,
    tokens_per_gpu: int = 4096,
    dispatch_bytes: float = 1,
    combine_bytes: float = 2,
) -> list[SimulationRow]:
    """One row for each number of `gpus`.

    Each step and layer of the trace becomes one batch of `tokens_per_gpu` tokens (4096 is DeepSeek-V3's prefill and
    training batch) whose assignments are shared out as the trace's were; `hidden_size` is that of the model simulated,
    which may be larger than the one that was traced. Elements take `dispatch_bytes` on the way out (1: FP8) and
    `combine_bytes` on the way back (2: BF16). The placement sees each layer's load over the whole trace.

    A placement that is a `Planner` gives experts the copies of its plan; with any other one and more GPUs than experts
    each expert has gpus / experts copies. Copies share their expert's traffic evenly. Raises
    `ProblemError` for an empty trace, one whose header lacks `k`, and for numbers of GPUs that do not fit the experts.
    """
    batch = Batch(tokens_per_gpu, _assignments_per_token(trace), hidden_size)
    rows: list[SimulationRow] = []
    problems: list[Problem] = []
    for count in gpus:
        try:
            share_LSG = _shares(trace, placement, count)
        except ProblemError as error:
            problems.extend(error.problems)
            continue
        rows.append(_row(trace, topology, share_LSG, count, batch, dispatch_bytes, combine_bytes))
    if problems:
        raise ProblemError(problems)
    return rows


def _assignments_per_token(trace: RoutingTrace) -> int:
    if not trace.counts_SLE.any():
        raise ProblemError(
            Problem("empty-trace", "the trace has no assignments", "trace", "profile or train for a step")
        )
    k = trace.header.get("k")
    if not isinstance(k, int) or k < 1:
        raise ProblemError(
            Problem(
                "bad-trace", f"the header's 'k' (experts a token) is {k!r}", "trace", "write it when making the trace"
            )
        )
    return k


def _shares(trace: RoutingTrace, placement: Placement, gpus: int) -> list[Floats]:
    """For each layer `share_SG`, over the steps in which it had tokens."""
    if isinstance(placement, Planner):
        return [_planned_shares(counts_SE, placement, gpus) for counts_SE in trace.counts_SLE.swapaxes(0, 1)]
    counts_SLR = replicate(trace.counts_SLE, gpus)
    shares: list[Floats] = []
    for layer in range(counts_SLR.shape[1]):
        counts_SR = counts_SLR[:, layer]
        shares.append(gpu_shares(counts_SR, placement.place(counts_SR.sum(axis=0), gpus), gpus))
    return shares


def _planned_shares(counts_SE: NDArray[np.int64], planner: Planner, gpus: int) -> Floats:
    plan = planner.plan(counts_SE, gpus)
    return gpu_shares(plan.slot_loads(counts_SE), plan.gpu_R, gpus)


def _row(
    trace: RoutingTrace,
    topology: Topology,
    share_LSG: list[Floats],
    gpus: int,
    batch: Batch,
    dispatch_bytes: float,
    combine_bytes: float,
) -> SimulationRow:
    sent = (batch.bytes_per_gpu(dispatch_bytes), batch.bytes_per_gpu(combine_bytes))
    out_1, back_1 = _exchange_seconds(topology, np.full((1, gpus), 1 / gpus), sent)
    balanced = float(out_1[0] + back_1[0])
    layers = [_exchange_seconds(topology, share_SG, sent) for share_SG in share_LSG]
    dispatch, combine = (np.concatenate([layer[way] for layer in layers]) for way in (0, 1))
    mean_L = [float((out + back).mean()) if len(out) else 0.0 for out, back in layers]
    worst = int(np.argmax(mean_L))
    share_G = np.concatenate(share_LSG).mean(axis=0)
    return SimulationRow(
        gpus=gpus,
        nodes=-(-gpus // topology.gpus_per_node),
        dispatch=Spread.of(dispatch),
        combine=Spread.of(combine),
        balanced_seconds=balanced,
        slowdown=_ratio(float((dispatch + combine).mean()), balanced),
        bytes_between_nodes=sum(sent) * _crossings(share_G, topology.gpus_per_node),
        worst_layer=int(trace.header.get("layers", range(len(layers)))[worst]),
        worst_layer_slowdown=_ratio(mean_L[worst], balanced),
    )


def _exchange_seconds(topology: Topology, share_SG: Floats, sent: tuple[float, float]) -> tuple[Floats, Floats]:
    """Seconds [S] of dispatch and of combine, in which the same pairs of GPUs exchange the other way round."""
    if isinstance(topology, EvenSourcesTopology):
        return topology.even_sources_seconds(share_SG * sent[0]), topology.even_sources_seconds(share_SG * sent[1])
    matrices = [bytes_between_gpus(share_G) for share_G in share_SG]
    dispatch = [topology.all_to_all_seconds(matrix_GG * sent[0]) for matrix_GG in matrices]
    combine = [topology.all_to_all_seconds(matrix_GG.T * sent[1]) for matrix_GG in matrices]
    return np.array(dispatch, dtype=np.float64), np.array(combine, dtype=np.float64)


def _crossings(share_G: Floats, gpus_per_node: int) -> float:
    """How often a GPU's bytes cross between nodes, summed over the sending GPUs."""
    node_G = np.arange(len(share_G)) // gpus_per_node
    others_G = len(share_G) - np.bincount(node_G)[node_G]
    return float((share_G * others_G).sum())


def _ratio(seconds: float, balanced: float) -> float:
    return seconds / balanced if balanced else 1.0
