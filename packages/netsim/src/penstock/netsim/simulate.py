"""What a routing trace costs on a network: dispatch and combine time, compared with perfectly balanced experts.

Shape suffixes: S steps, L layers, E experts, R expert copies, G GPUs, M nodes, T tokens, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.contracts import Placement, Topology
from penstock.hooks.problems import Problem, ProblemError
from penstock.netsim.fidelity import Fidelity, exchange
from penstock.netsim.network import Flows, Network
from penstock.netsim.placement import replicate
from penstock.netsim.plan import Planner
from penstock.netsim.synthetic import draw_experts
from penstock.netsim.traffic import Batch, bytes_between_gpus, deduplicated_bytes, gpu_shares, token_reach
from penstock.traces.trace import RoutingTrace

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STEPS_ONE_BY_ONE = 8
"""Default number of simulated steps of a trace if each exchange needs its own messages."""
SHARES_AT_ONCE = 2**18
"""Shares held at once for a block of steps, 2 MB: 8,192 GPUs, 61 layers and 1,000 steps would be 4 GB at once."""
TOKENS_LOOKED_AT = 2048
"""Tokens sampled to estimate how many nodes a token reaches; the share is then known to about 1 %."""


@runtime_checkable
class EvenSourcesTopology(Protocol):
    """A topology that times many all-to-alls at once, and whose reverse exchange takes equally long.

    Every other topology times one matrix at a time.
    """

    def even_sources_seconds(self, bytes_NG: Floats) -> Floats: ...


@runtime_checkable
class LinkedTopology(Protocol):
    """A topology that describes its links; every fidelity except alpha-beta needs them."""

    def network(self, gpus: int) -> Network: ...


FEWEST_FOR_PERCENTILES = 100
"""Fewest exchanges or steps with a 99th percentile: of fewer, it would be interpolated up to the largest."""


@runtime_checkable
class RemarkedTopology(Protocol):
    """A topology that says which of its parts take no part at some numbers of GPUs."""

    def remarks(self, gpus: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds over `count` simulated exchanges or steps; `p99` is None below `FEWEST_FOR_PERCENTILES`."""

    mean: float
    p50: float
    p99: float | None
    max: float
    count: int

    @classmethod
    def of(cls, seconds: Floats) -> Spread:
        count = len(seconds)
        if not count:
            return cls(0.0, 0.0, None, 0.0, 0)
        p99 = float(np.quantile(seconds, 0.99)) if count >= FEWEST_FOR_PERCENTILES else None
        return cls(float(seconds.mean()), float(np.median(seconds)), p99, float(seconds.max()), count)


@dataclass(frozen=True, slots=True)
class Straggler:
    """A GPU that the others wait for: in `share` of the exchanges it gets the most bytes, `load` times the mean."""

    gpu: int
    share: float
    load: float


@dataclass(frozen=True, slots=True)
class SimulationRow:
    """The result for one number of GPUs.

    `dispatch` and `combine` are seconds of one layer's exchange and `both` of the two together, `step` of all layers of
    a step, one after the other. `copies` is the number of expert copies on all GPUs together.
    `balanced_seconds` is dispatch plus combine of a layer when every GPU's experts get the same share of the same
    bytes, and `slowdown` the mean simulated sum divided by it (1 is perfect). `bytes_between_nodes` is sent by all GPUs
    together in a layer's dispatch and combine, on average. `worst_layer` is the model's index of the layer with the
    largest mean time, `worst_layer_slowdown` its own slowdown. `load_G` is the average load of each GPU relative to the
    mean; `stragglers` are the GPUs that most often get the most. `step_quantiles` are seconds of a step at 0, 1, ..
    100 %, empty below `FEWEST_FOR_PERCENTILES` steps.
    """

    gpus: int
    nodes: int
    dispatch: Spread
    combine: Spread
    both: Spread
    step: Spread
    copies: int
    balanced_seconds: float
    slowdown: float
    bytes_between_nodes: float
    worst_layer: int
    worst_layer_slowdown: float
    load_G: tuple[float, ...]
    stragglers: tuple[Straggler, ...]
    step_quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """How exchanges are simulated."""

    topology: Topology
    fidelity: Fidelity
    deduplicate: bool
    steps: int | None

    @property
    def at_once(self) -> bool:
        return self.fidelity == "alpha-beta" and not self.deduplicate and isinstance(self.topology, EvenSourcesTopology)

    def chosen(self, steps: int) -> Integers:
        """Which of a layer's steps are simulated: all, or an evenly spaced selection."""
        most = self.steps or (steps if self.at_once else STEPS_ONE_BY_ONE)
        if most == 1:
            return np.array([(steps - 1) // 2])
        return np.unique(np.linspace(0, steps - 1, min(most, steps)).round().astype(np.int64))


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
    fidelity: Fidelity = "alpha-beta",
    deduplicate: bool = False,
    steps: int | None = None,
) -> list[SimulationRow]:
    """One row for each number of `gpus`.

    Each step and layer of the trace becomes one batch of `tokens_per_gpu` tokens (4096 is DeepSeek-V3's prefill and
    training batch) whose assignments are distributed as in the trace; `hidden_size` is that of the simulated model,
    which may be larger than the traced one. Elements take `dispatch_bytes` on the way out (1: FP8) and `combine_bytes`
    on the way back (2: BF16). The placement sees each layer's load over the whole trace.

    With `deduplicate` a token crosses to each node once. The number of nodes it reaches comes from the trace's own
    tokens, or from tokens drawn from its counts if the trace has no tokens. `steps` limits how many steps of the trace
    are simulated, evenly spaced. By default all are simulated if they can be timed at once (alpha-beta without
    deduplication), and `STEPS_ONE_BY_ONE` otherwise.

    If the placement is a `Planner`, experts get the copies of its plan; with any other placement and more GPUs than
    experts, each expert has gpus / experts copies. Copies share their expert's traffic evenly. Raises `ProblemError`
    for an empty trace, a trace whose header lacks `k`, numbers of GPUs that do not fit the experts, and a fidelity that
    needs links on a topology without links.
    """
    batch = Batch(tokens_per_gpu, _assignments_per_token(trace), hidden_size)
    if fidelity != "alpha-beta" and not isinstance(topology, LinkedTopology):
        what = f"{type(topology).__name__} does not describe its links, which fidelity '{fidelity}' needs"
        raise ProblemError(Problem("no-links", what, "topology", "use --fidelity alpha-beta"))
    way = _Way(topology, fidelity, deduplicate, steps)
    rows: list[SimulationRow] = []
    problems: list[Problem] = []
    for count in gpus:
        try:
            rows.append(_row(trace, placement, count, batch, (dispatch_bytes, combine_bytes), way))
        except ProblemError as error:
            problems.extend(error.problems)
    if problems:
        raise ProblemError(problems)
    return rows


@dataclass(frozen=True, slots=True)
class Picture:
    """One exchange, message by message: the slowest layer's dispatch of a middle step, by the fluid model.

    `use_EL` is the share of capacity that the links in `links` used from `begin_E` on; only the busiest are kept.
    """

    layer: int
    bytes_GG: Floats
    seconds: float
    finish_G: Floats
    links: tuple[str, ...]
    begin_E: Floats
    use_EL: Floats


def picture(
    trace: RoutingTrace,
    topology: Topology,
    placement: Placement,
    *,
    gpus: int,
    hidden_size: int,
    tokens_per_gpu: int = 4096,
    dispatch_bytes: float = 1,
    most_links: int = 12,
) -> Picture | None:
    """What happens during one dispatch, or None if the topology has no links. See `simulate` for the arguments."""
    if not isinstance(topology, LinkedTopology):
        return None
    batch = Batch(tokens_per_gpu, _assignments_per_token(trace), hidden_size)
    way = _Way(topology, "fluid", deduplicate=False, steps=1)
    layers = list(_layers(trace, placement, gpus, way))
    busiest = max(layers, key=lambda layer: float(layer.share_SG[0].max()))
    network = topology.network(gpus)
    bytes_GG = bytes_between_gpus(busiest.share_SG[0]) * batch.bytes_per_gpu(dispatch_bytes)
    found = exchange(network, Flows.of(bytes_GG), "fluid")
    order = np.argsort(-found.load_L / network.capacity_L, kind="stable")[:most_links]
    timeline = found.timeline
    return Picture(
        layer=int(trace.header.get("layers", range(trace.counts_SLE.shape[1]))[busiest.number]),
        bytes_GG=bytes_GG,
        seconds=found.seconds,
        finish_G=found.finish_G,
        links=tuple(network.link_names[link] for link in order),
        begin_E=np.zeros(0) if timeline is None else timeline.begin_E,
        use_EL=np.zeros((0, len(order))) if timeline is None else timeline.use_EL[:, order],
    )


def _assignments_per_token(trace: RoutingTrace) -> int:
    if not trace.counts_SLE.any():
        raise ProblemError(
            Problem("empty-trace", "the trace has no assignments", "trace", "profile or train for at least one step")
        )
    k = trace.header.get("k")
    if not isinstance(k, int) or k < 1:
        raise ProblemError(
            Problem(
                "bad-trace", f"the header's 'k' (experts per token) is {k!r}", "trace", "write it when making the trace"
            )
        )
    return k


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's traffic in those steps that had tokens: `share_SG` and `counts_SE`, and its expert copies."""

    number: int
    steps: Integers
    share_SG: Floats
    counts_SE: Integers
    gpu_EC: Integers
    copies: int


def _layers(trace: RoutingTrace, placement: Placement, gpus: int, way: _Way) -> Iterator[_Layer]:
    """Layer by layer, in blocks of steps that fit in the processor's cache."""
    chosen = way.chosen(trace.counts_SLE.shape[0])
    for layer in range(trace.counts_SLE.shape[1]):
        counts_SE = trace.counts_SLE[:, layer]
        gpu_R, gpu_EC, slot_loads = _slots(counts_SE, placement, gpus)
        at_once = max(1, SHARES_AT_ONCE // gpus)
        for first in range(0, len(chosen), at_once):
            steps = np.arange(len(chosen))[first : first + at_once]
            steps = steps[counts_SE[chosen[steps]].any(axis=1)]
            some_SE = counts_SE[chosen[steps]]
            if len(steps):
                yield _Layer(layer, steps, gpu_shares(slot_loads(some_SE), gpu_R, gpus), some_SE, gpu_EC, len(gpu_R))


def _slots(
    counts_SE: Integers, placement: Placement, gpus: int
) -> tuple[Integers, Integers, Callable[[Integers], Floats]]:
    """The GPU of every slot, the GPUs of every expert's copies, and the load of every slot for given counts."""
    if isinstance(placement, Planner):
        plan = placement.plan(counts_SE, gpus)
        return plan.gpu_R, _copies(plan.expert_R, plan.gpu_R), plan.slot_loads
    gpu_R = placement.place(replicate(counts_SE.sum(axis=0), gpus), gpus)
    return gpu_R, gpu_R.reshape(counts_SE.shape[1], -1), lambda some_SE: replicate(some_SE, gpus)


def _copies(expert_R: Integers, gpu_R: Integers) -> Integers:
    """`gpu_EC`: each expert's GPUs in turn, repeated so that all rows have the same length."""
    gpus_of = [gpu_R[expert_R == expert] for expert in range(int(expert_R.max()) + 1)]
    turns = min(int(np.lcm.reduce([len(gpus) for gpus in gpus_of])), TOKENS_LOOKED_AT)
    return np.stack([np.resize(gpus, turns) for gpus in gpus_of])


def _row(
    trace: RoutingTrace, placement: Placement, gpus: int, batch: Batch, element_bytes: tuple[float, float], way: _Way
) -> SimulationRow:
    sent = (batch.bytes_per_gpu(element_bytes[0]), batch.bytes_per_gpu(element_bytes[1]))
    times_L: list[list[Floats]] = [[] for _ in range(trace.counts_SLE.shape[1])]
    steps = len(way.chosen(trace.counts_SLE.shape[0]))
    step_S, share_G, busiest_G = np.zeros(steps), np.zeros(gpus), np.zeros(gpus)
    between, copies = 0.0, 0
    tokens_TLK = _tokens(trace)
    for layer in _layers(trace, placement, gpus, way):
        exchanges = _Exchanges(
            way, gpus, batch, sent, layer, None if tokens_TLK is None else tokens_TLK[:, layer.number]
        )
        seconds_2S = np.stack(exchanges.seconds())
        times_L[layer.number].append(seconds_2S)
        step_S[layer.steps] += seconds_2S.sum(axis=0)
        share_G += layer.share_SG.sum(axis=0)
        busiest_G += np.bincount(layer.share_SG.argmax(axis=1), minlength=gpus)
        between += exchanges.bytes_between_nodes()
        copies = max(copies, layer.copies)
    dispatch, combine = np.concatenate([block for layer in times_L for block in layer], axis=1)
    mean_L = [float(np.concatenate(layer, axis=1).sum(axis=0).mean()) if layer else 0.0 for layer in times_L]
    worst = int(np.argmax(mean_L))
    balanced = _balanced_seconds(trace, gpus, batch, sent, way)
    load_G = share_G * gpus / share_G.sum()
    return SimulationRow(
        gpus=gpus,
        nodes=-(-gpus // way.topology.gpus_per_node),
        dispatch=Spread.of(dispatch),
        combine=Spread.of(combine),
        both=Spread.of(dispatch + combine),
        step=Spread.of(step_S),
        copies=copies,
        balanced_seconds=balanced,
        slowdown=_ratio(float((dispatch + combine).mean()), balanced),
        bytes_between_nodes=between / len(dispatch),
        worst_layer=int(trace.header.get("layers", range(len(times_L)))[worst]),
        worst_layer_slowdown=_ratio(mean_L[worst], balanced),
        load_G=tuple(load_G.tolist()),
        stragglers=_stragglers(busiest_G / busiest_G.sum(), load_G),
        step_quantiles=_quantiles(step_S),
    )


def _quantiles(step_S: Floats) -> tuple[float, ...]:
    return () if len(step_S) < FEWEST_FOR_PERCENTILES else tuple(np.quantile(step_S, np.linspace(0, 1, 101)).tolist())


def _tokens(trace: RoutingTrace) -> Integers | None:
    """Some of the trace's own tokens, evenly spaced, or None if it has no tokens."""
    if trace.expert_NLK is None or not len(trace.expert_NLK):
        return None
    tokens = len(trace.expert_NLK)
    return trace.expert_NLK[np.linspace(0, tokens - 1, min(TOKENS_LOOKED_AT, tokens)).astype(np.int64)].astype(np.int64)


def _stragglers(share_G: Floats, load_G: Floats, most: int = 4) -> tuple[Straggler, ...]:
    order = np.argsort(-share_G, kind="stable")[:most]
    return tuple(Straggler(int(gpu), float(share_G[gpu]), float(load_G[gpu])) for gpu in order if share_G[gpu] > 0)


@dataclass(frozen=True, slots=True)
class _Exchanges:
    """The exchanges of one layer on `gpus` GPUs; `sent` are a GPU's bytes out and back."""

    way: _Way
    gpus: int
    batch: Batch
    sent: tuple[float, float]
    layer: _Layer
    expert_TK: Integers | None

    def seconds(self) -> tuple[Floats, Floats]:
        """Seconds of dispatch and of combine; combine exchanges between the same pairs in the other direction."""
        share_SG, topology = self.layer.share_SG, self.way.topology
        if self.way.at_once and isinstance(topology, EvenSourcesTopology):
            out, back = (topology.even_sources_seconds(share_SG * sent) for sent in self.sent)
            return out, back
        matrices = [self._matrices(step) for step in range(len(share_SG))]
        times = np.array([[self._one(out_GG), self._one(back_GG.T)] for out_GG, back_GG in matrices]).reshape(-1, 2)
        return times[:, 0], times[:, 1]

    def bytes_between_nodes(self) -> float:
        """Summed over the layer's exchanges, out and back."""
        if not self.way.deduplicate:
            return sum(self.sent) * _crossings(self.layer.share_SG.sum(axis=0), self.way.topology.gpus_per_node)
        crossing = [
            self._deduplicated(step, sent)[1].sum() for step in range(len(self.layer.share_SG)) for sent in self.sent
        ]
        return float(sum(crossing))

    def _matrices(self, step: int) -> tuple[Floats, Floats]:
        if self.way.deduplicate:
            out, back = (self._deduplicated(step, sent)[0] for sent in self.sent)
            return out, back
        matrix_GG = bytes_between_gpus(self.layer.share_SG[step])
        return matrix_GG * self.sent[0], matrix_GG * self.sent[1]

    def _deduplicated(self, step: int, sent: float) -> tuple[Floats, Floats]:
        """`sent` counts k copies of each token, in bytes."""
        expert_TK = self.expert_TK
        if expert_TK is None:
            counts_E = self.layer.counts_SE[step].astype(np.float64)
            expert_TK = draw_experts(np.random.default_rng(step), counts_E, self.batch.k, TOKENS_LOOKED_AT)
        size = self.way.topology.gpus_per_node
        reach_G = token_reach(expert_TK, self.layer.gpu_EC, np.arange(self.gpus))
        reach_M = token_reach(expert_TK, self.layer.gpu_EC, np.arange(self.gpus) // size)
        return deduplicated_bytes(reach_G, reach_M, size, sent / self.batch.k)

    def _one(self, bytes_GG: Floats) -> float:
        if self.way.fidelity == "alpha-beta" or not isinstance(self.way.topology, LinkedTopology):
            return self.way.topology.all_to_all_seconds(bytes_GG)
        return exchange(self.way.topology.network(self.gpus), Flows.of(bytes_GG), self.way.fidelity).seconds


def _balanced_seconds(trace: RoutingTrace, gpus: int, batch: Batch, sent: tuple[float, float], way: _Way) -> float:
    """Dispatch plus combine of a layer with equally busy experts, the same number on every GPU, by the same model."""
    held = -(-trace.counts_SLE.shape[2] // gpus)
    gpu_EC = np.repeat(np.arange(gpus), held)[:, None]
    one_SE = np.ones((1, held * gpus), dtype=np.int64)
    even = _Layer(0, np.zeros(1, dtype=np.int64), np.full((1, gpus), 1 / gpus), one_SE, gpu_EC, held * gpus)
    out_S, back_S = _Exchanges(way, gpus, batch, sent, even, None).seconds()
    return float(out_S[0] + back_S[0])


def _crossings(share_G: Floats, gpus_per_node: int) -> float:
    """How often a GPU's bytes cross between nodes, summed over the sending GPUs."""
    node_G = np.arange(len(share_G)) // gpus_per_node
    others_G = len(share_G) - np.bincount(node_G)[node_G]
    return float((share_G * others_G).sum())


def _ratio(seconds: float, balanced: float) -> float:
    return seconds / balanced if balanced else 1.0
