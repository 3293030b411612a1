"""The simulation against one traffic matrix at a time, and its laws."""

import time
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks import ProblemError, Registry
from penstock.netsim.balanced_swap import BalancedSwap
from penstock.netsim.placement import Contiguous
from penstock.netsim.simulate import SimulationRow, picture, simulate
from penstock.netsim.synthetic import synthetic_trace
from penstock.netsim.topologies import RailOptimised
from penstock.netsim.topology import TwoLevel
from penstock.traces.trace import RoutingTrace


class MatrixOnly:
    """A topology that offers what the contract asks for and no more."""

    def __init__(self, topology: TwoLevel) -> None:
        self.gpus_per_node = topology.gpus_per_node
        self._topology = topology

    def all_to_all_seconds(self, bytes_GG) -> float:
        return self._topology.all_to_all_seconds(bytes_GG)


def skewed_trace(steps: int = 4, layers: int = 3, experts: int = 16, k: int = 2, seed: int = 0) -> RoutingTrace:
    rng = np.random.default_rng(seed)
    share_LE = rng.dirichlet(np.ones(experts), size=layers)
    counts_SLE = rng.multinomial(8192 * k, share_LE, size=(steps, layers)).astype(np.int64)
    return RoutingTrace(counts_SLE, {"k": k, "layers": list(range(1, layers + 1))})


def flat(row: SimulationRow) -> dict[str, float]:
    fields = asdict(row)
    stragglers = fields.pop("stragglers")
    return {
        **{
            f"{spread}.{name}": seconds
            for spread in ("step", "dispatch", "combine", "both")
            for name, seconds in fields.pop(spread).items()
            if seconds is not None
        },
        **{
            f"straggler {number} {name}": value
            for number, each in enumerate(stragglers)
            for name, value in each.items()
        },
        **{
            f"{name} {number}": value
            for name in ("load_G", "step_quantiles")
            for number, value in enumerate(fields.pop(name))
        },
        **fields,
    }


def uniform_trace(experts: int = 16) -> RoutingTrace:
    return RoutingTrace(np.full((2, 2, experts), 100, dtype=np.int64), {"k": 2})


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 2**32 - 1))
def test_rows_equal_one_matrix_at_a_time(gpus_per_node, seed):
    trace, topology = skewed_trace(seed=seed), TwoLevel("h100", gpus_per_node=gpus_per_node)
    gpus = [1, 2, 4, 8, 16, 32]
    fast = simulate(trace, topology, Contiguous(), gpus=gpus, hidden_size=256)
    slow = simulate(trace, MatrixOnly(topology), Contiguous(), gpus=gpus, hidden_size=256)
    for row, expected in zip(fast, slow, strict=True):
        assert flat(row) == pytest.approx(flat(expected))


def test_one_hot_expert_by_hand():
    """Two GPUs in two nodes, all tokens to expert 0: GPU 1 sends everything to GPU 0, which sends nothing."""
    trace = RoutingTrace(np.array([[[64, 0]]], dtype=np.int64), {"k": 1})
    topology = TwoLevel(gpus_per_node=1, between_bandwidth=1000.0, between_latency=1.0)
    [row] = simulate(trace, topology, Contiguous(), gpus=[2], hidden_size=100, tokens_per_gpu=10)
    assert row.nodes == 2
    assert row.dispatch.max == pytest.approx(1 + 10 * 100 * 1 / 1000)
    assert row.combine.max == pytest.approx(1 + 10 * 100 * 2 / 1000)
    assert row.balanced_seconds == pytest.approx(2 + (500 + 1000) / 1000)
    assert row.slowdown == pytest.approx((2 + 3) / 3.5)
    assert row.bytes_between_nodes == pytest.approx(3000)


def test_balanced_traffic_has_no_slowdown():
    rows = simulate(uniform_trace(), TwoLevel(), Contiguous(), gpus=[1, 8, 16, 32, 256], hidden_size=4096)
    assert [row.slowdown for row in rows] == pytest.approx([1.0] * 5)
    assert [row.nodes for row in rows] == [1, 1, 2, 4, 32]


def test_imbalance_costs_time_and_not_bytes():
    skewed = simulate(skewed_trace(), TwoLevel(), Contiguous(), gpus=[16], hidden_size=4096)[0]
    balanced = simulate(uniform_trace(), TwoLevel(), Contiguous(), gpus=[16], hidden_size=4096)[0]
    assert skewed.slowdown > 1.2
    assert skewed.bytes_between_nodes == pytest.approx(balanced.bytes_between_nodes)
    assert skewed.balanced_seconds == pytest.approx(balanced.dispatch.mean + balanced.combine.mean)


def test_a_gpu_alone_sends_nothing():
    [row] = simulate(skewed_trace(), TwoLevel(), Contiguous(), gpus=[1], hidden_size=64)
    assert (row.dispatch.max, row.combine.max, row.bytes_between_nodes, row.slowdown) == (0.0, 0.0, 0.0, 1.0)


def test_bytes_between_nodes_count_every_crossing():
    [row] = simulate(
        uniform_trace(), TwoLevel(gpus_per_node=8), Contiguous(), gpus=[16], hidden_size=10, tokens_per_gpu=7
    )
    assert row.bytes_between_nodes == pytest.approx(16 * 7 * 2 * 10 * 3 / 2)  # half of 16 GPUs' tokens leave the node


def test_copies_beyond_one_gpu_an_expert_spread_a_hot_expert():
    trace = RoutingTrace(np.array([[[900, 100, 0, 0]]], dtype=np.int64), {"k": 1})
    topology = TwoLevel(gpus_per_node=1, between_latency=0.0)
    rows = simulate(trace, topology, Contiguous(), gpus=[4, 8, 16], hidden_size=64)
    # The GPU of the hot expert gets 0.9 / copies of the tokens of all others.
    received = [0.9 * 3, 0.45 * 7, 0.225 * 15]
    assert [row.dispatch.mean for row in rows] == pytest.approx(
        [share * 4096 * 64 / topology.between.bandwidth for share in received]
    )


def test_the_worst_layer_is_named_by_the_models_index():
    counts_SLE = np.full((2, 3, 4), 100, dtype=np.int64)
    counts_SLE[:, 1] = [370, 10, 10, 10]
    trace = RoutingTrace(counts_SLE, {"k": 2, "layers": [1, 2, 3]})
    [row] = simulate(trace, TwoLevel(), Contiguous(), gpus=[4], hidden_size=4096)
    assert row.worst_layer == 2
    assert row.worst_layer_slowdown > row.slowdown > 1


def test_the_size_of_the_traced_batch_does_not_matter():
    trace = skewed_trace()
    larger = RoutingTrace(trace.counts_SLE * 3, trace.header)
    arguments = {"gpus": [8, 16], "hidden_size": 64}
    first = simulate(trace, TwoLevel(), Contiguous(), **arguments)
    second = simulate(larger, TwoLevel(), Contiguous(), **arguments)
    assert [row.dispatch.mean for row in first] == pytest.approx([row.dispatch.mean for row in second])


def test_every_illegal_number_of_gpus_is_reported():
    with pytest.raises(ProblemError) as caught:
        simulate(skewed_trace(experts=12), TwoLevel(), Contiguous(), gpus=[8, 12, 16], hidden_size=64)
    assert [problem.code for problem in caught.value.problems] == ["indivisible-experts"] * 2


@pytest.mark.parametrize(
    ("counts", "header", "code"),
    [
        (np.zeros((0, 1, 4)), {"k": 2}, "empty-trace"),
        (np.zeros((3, 1, 4)), {"k": 2}, "empty-trace"),
        (np.ones((3, 1, 4)), {}, "bad-trace"),
    ],
)
def test_traces_that_cannot_be_simulated_are_problems(counts, header, code):
    with pytest.raises(ProblemError) as caught:
        simulate(RoutingTrace(counts.astype(np.int64), header), TwoLevel(), Contiguous(), gpus=[2], hidden_size=64)
    assert caught.value.problems[0].code == code


def test_a_quickstart_sized_trace_takes_less_than_three_seconds():
    trace = skewed_trace(steps=300, layers=5)
    started = time.perf_counter()
    simulate(trace, TwoLevel(), Contiguous(), gpus=[8, 16, 32, 64, 128, 256], hidden_size=4096)
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("fidelity", ["alpha-beta", "loggp", "fluid"])
def test_balanced_traffic_has_no_slowdown_in_any_fidelity(fidelity):
    [row] = simulate(uniform_trace(), TwoLevel(), Contiguous(), gpus=[16], hidden_size=512, fidelity=fidelity)
    assert row.slowdown == pytest.approx(1.0)
    assert row.step.p50 == pytest.approx(2 * row.balanced_seconds)


@pytest.mark.parametrize("fidelity", ["loggp", "fluid"])
def test_no_fidelity_is_faster_than_the_ports(fidelity):
    topology = RailOptimised(hardware="h100")
    arguments = {"gpus": [16], "hidden_size": 512, "steps": 2}
    [ports] = simulate(skewed_trace(), TwoLevel("h100"), Contiguous(), **arguments)
    [row] = simulate(skewed_trace(), topology, Contiguous(), fidelity=fidelity, **arguments)
    assert row.dispatch.mean >= 0.999 * ports.dispatch.mean


def test_a_step_is_all_its_layers_one_after_the_other():
    trace = skewed_trace(steps=100, layers=3)
    [row] = simulate(trace, TwoLevel(), Contiguous(), gpus=[16], hidden_size=512)
    assert row.step.mean == pytest.approx(3 * (row.dispatch.mean + row.combine.mean))
    assert row.step_quantiles[50] == pytest.approx(row.step.p50)
    assert row.step_quantiles[100] == row.step.max


def test_percentiles_need_a_hundred_samples_and_are_of_dispatch_and_combine_together():
    some, many = (
        simulate(skewed_trace(steps=steps, layers=1), TwoLevel(), Contiguous(), gpus=[16], hidden_size=512)[0]
        for steps in (99, 100)
    )
    assert (some.both.p99, some.step.p99, some.step_quantiles) == (None, None, ())
    assert many.both.count == 100
    assert many.both.p99 == many.step.p99 == many.step_quantiles[99]
    assert many.both.max == many.step.max


def test_rows_count_the_copies_of_experts():
    rows = simulate(uniform_trace(8), TwoLevel(), Contiguous(), gpus=[4, 8, 32], hidden_size=512)
    assert [row.copies for row in rows] == [8, 8, 32]


def test_layers_without_tokens_in_a_step_take_no_time_in_it():
    counts_SLE = np.full((2, 2, 4), 100, dtype=np.int64)
    counts_SLE[1, 0] = 0
    [row] = simulate(RoutingTrace(counts_SLE, {"k": 1}), TwoLevel(), Contiguous(), gpus=[4], hidden_size=512)
    assert row.step.max == pytest.approx(row.step.mean * 4 / 3)  # two layers in one step, one in the other


def test_stragglers_are_the_gpus_of_busy_experts():
    counts_SLE = np.full((4, 1, 8), 100, dtype=np.int64)
    counts_SLE[:3, 0, 5] = 900
    counts_SLE[3, 0, 2] = 900
    [row] = simulate(RoutingTrace(counts_SLE, {"k": 1}), TwoLevel(), Contiguous(), gpus=[8], hidden_size=64)
    assert [(each.gpu, each.share) for each in row.stragglers] == [(5, 0.75), (2, 0.25)]
    assert sum(row.load_G) == pytest.approx(8)
    assert row.stragglers[0].load == pytest.approx(row.load_G[5])


def test_a_token_crosses_to_a_node_once():
    """Every token takes experts 4 and 5, both of node 1: half the bytes cross, as each of 4 GPUs of node 0 sends 10
    tokens of 100 bytes there, and the same number comes back in twice the width."""
    counts_SLE = np.array([[[0, 0, 0, 0, 20, 20, 0, 0]]], dtype=np.int64)
    trace = RoutingTrace(counts_SLE, {"k": 2}, np.tile(np.array([[[4, 5]]]), (20, 1, 1)))
    topology = TwoLevel(gpus_per_node=4)
    arguments = {"gpus": [8], "hidden_size": 100, "tokens_per_gpu": 10}
    [twice] = simulate(trace, topology, Contiguous(), **arguments)
    [once] = simulate(trace, topology, Contiguous(), deduplicate=True, **arguments)
    assert twice.bytes_between_nodes == pytest.approx(4 * 10 * 2 * 100 * 3)
    assert once.bytes_between_nodes == pytest.approx(4 * 10 * 100 * 3)


def test_tokens_drawn_from_counts_reach_as_many_nodes_as_the_traces_own():
    trace = synthetic_trace("log-normal", experts=32, k=4, layers=1, steps=2, tokens=4096, skew=0.5)
    without = RoutingTrace(trace.counts_SLE, trace.header)
    rows = [
        simulate(each, TwoLevel(gpus_per_node=4), Contiguous(), gpus=[16], hidden_size=64, deduplicate=True)[0]
        for each in (trace, without)
    ]
    assert rows[0].bytes_between_nodes == pytest.approx(rows[1].bytes_between_nodes, rel=0.03)


def test_a_topology_without_links_knows_alpha_beta_alone():
    with pytest.raises(ProblemError, match="fidelity alpha-beta"):
        simulate(skewed_trace(), MatrixOnly(TwoLevel()), Contiguous(), gpus=[8], hidden_size=64, fidelity="fluid")


def test_steps_limit_what_is_simulated():
    trace = skewed_trace(steps=9)
    [all_steps] = simulate(trace, TwoLevel(), Contiguous(), gpus=[8], hidden_size=64)
    [some] = simulate(trace, TwoLevel(), Contiguous(), gpus=[8], hidden_size=64, steps=3)
    [same] = simulate(
        RoutingTrace(trace.counts_SLE[[0, 4, 8]], trace.header), TwoLevel(), Contiguous(), gpus=[8], hidden_size=64
    )
    assert some.dispatch == same.dispatch
    assert some.dispatch != all_steps.dispatch


def test_a_picture_shows_the_slowest_layers_exchange():
    counts_SLE = np.full((3, 2, 8), 100, dtype=np.int64)
    counts_SLE[:, 1, 3] = 900
    trace = RoutingTrace(counts_SLE, {"k": 1, "layers": [4, 7]})
    drawn = picture(trace, TwoLevel(gpus_per_node=4), Contiguous(), gpus=8, hidden_size=512)
    assert drawn is not None
    assert drawn.layer == 7
    assert drawn.bytes_GG[0].argmax() == 3
    assert drawn.links[0] == "port in 3"
    assert drawn.finish_G.max() == drawn.seconds
    assert drawn.use_EL.max() <= 1 + 1e-9
    assert picture(trace, MatrixOnly(TwoLevel()), Contiguous(), gpus=8, hidden_size=512) is None


def test_components_build_by_name():
    registry = Registry.discover()
    topology = registry.build("topology", {"use": "two-level", "hardware": "h100", "between_bandwidth": 25e9})
    placement = registry.build("placement", "contiguous")
    assert (topology.gpus_per_node, topology.between.bandwidth) == (8, 25e9)
    assert simulate(skewed_trace(), topology, placement, gpus=[16], hidden_size=64)[0].gpus == 16
    with pytest.raises(ProblemError, match="hardware"):
        registry.build("topology", {"use": "two-level", "hardware": "h1"})


def test_planned_copies_of_experts_bring_the_exchange_near_the_balanced_one():
    trace, topology = skewed_trace(experts=32), TwoLevel("h100")
    [plain] = simulate(trace, topology, Contiguous(), gpus=[16], hidden_size=1024)
    [planned] = simulate(trace, topology, BalancedSwap(redundant=32), gpus=[16], hidden_size=1024)
    assert plain.slowdown > 1.5
    assert planned.slowdown < 1.1
    assert planned.balanced_seconds == plain.balanced_seconds


def test_a_planner_places_experts_on_any_number_of_gpus():
    rows = simulate(skewed_trace(experts=12), TwoLevel("h100"), BalancedSwap(), gpus=[1, 5, 12, 40], hidden_size=256)
    assert [row.gpus for row in rows] == [1, 5, 12, 40]
