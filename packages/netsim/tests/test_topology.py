"""The two-level model against hand computation, a loop over bytes, and its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.hooks.problems import ProblemError
from penstock.netsim.topology import TwoLevel
from penstock.netsim.traffic import bytes_between_gpus


def small(gpus_per_node: int = 2) -> TwoLevel:
    return TwoLevel(
        gpus_per_node=gpus_per_node,
        inside_bandwidth=100.0,
        inside_latency=1.0,
        between_bandwidth=10.0,
        between_latency=2.0,
    )


def dumb_seconds(bytes_GG, topology: TwoLevel) -> float:
    """The docstring's formula, one pair of GPUs at a time."""
    gpus = len(bytes_GG)
    worst = 0.0
    for gpu in range(gpus):
        ports = {"sent_in": 0.0, "got_in": 0.0, "sent_out": 0.0, "got_out": 0.0}
        for peer in range(gpus):
            if peer == gpu:
                continue
            where = "in" if peer // topology.gpus_per_node == gpu // topology.gpus_per_node else "out"
            ports[f"sent_{where}"] += bytes_GG[gpu][peer]
            ports[f"got_{where}"] += bytes_GG[peer][gpu]
        inside = max(ports["sent_in"], ports["got_in"])
        between = max(ports["sent_out"], ports["got_out"])
        if inside > 0:
            worst = max(worst, topology.inside.latency + inside / topology.inside.bandwidth)
        if between > 0:
            worst = max(worst, topology.between.latency + between / topology.between.bandwidth)
    return worst


matrices = st.integers(1, 9).flatmap(
    lambda gpus: st.lists(
        st.lists(st.integers(0, 10_000), min_size=gpus, max_size=gpus), min_size=gpus, max_size=gpus
    ).map(np.array)
)


def test_two_nodes_of_two_gpus_by_hand():
    bytes_GG = [
        [9999, 200, 30, 0],
        [0, 9999, 0, 50],
        [0, 0, 0, 0],
        [0, 0, 400, 0],
    ]
    result = small().all_to_all(bytes_GG)
    # Inside: GPU 0 sends 200, GPU 1 gets 200; GPU 3 sends 400, GPU 2 gets 400. Between: 0 -> 2 30, 1 -> 3 50.
    assert result.inside_seconds_G == pytest.approx([3.0, 3.0, 5.0, 5.0])
    assert result.between_seconds_G == pytest.approx([5.0, 7.0, 5.0, 7.0])
    assert result.seconds == pytest.approx(7.0)
    assert result.slowest_gpu == 1
    assert small().all_to_all_seconds(bytes_GG) == pytest.approx(7.0)


@pytest.mark.parametrize("gpus", [2, 8, 16, 64])
def test_uniform_traffic_has_a_closed_form(gpus):
    topology, each = TwoLevel("h800"), 1e6
    inside = topology.inside.latency + (min(gpus, 8) - 1) * each / topology.inside.bandwidth
    between = topology.between.latency + (gpus - 8) * each / topology.between.bandwidth if gpus > 8 else 0.0
    assert topology.all_to_all_seconds(np.full((gpus, gpus), each)) == pytest.approx(max(inside, between))


def test_no_traffic_and_traffic_at_home_take_no_time():
    assert small().all_to_all_seconds(np.zeros((4, 4))) == 0.0
    assert small().all_to_all_seconds(np.diag([1e9] * 4)) == 0.0


@given(matrices, st.integers(1, 4))
def test_equals_the_dumb_loop(bytes_GG, gpus_per_node):
    topology = small(gpus_per_node)
    assert topology.all_to_all_seconds(bytes_GG) == pytest.approx(dumb_seconds(bytes_GG, topology))


@given(matrices, st.integers(1, 4))
def test_the_reverse_exchange_takes_as_long(bytes_GG, gpus_per_node):
    topology = small(gpus_per_node)
    assert topology.all_to_all_seconds(bytes_GG.T) == pytest.approx(topology.all_to_all_seconds(bytes_GG))


@given(matrices, st.data())
def test_more_bytes_never_take_less_time(bytes_GG, data):
    gpus = len(bytes_GG)
    more_GG = bytes_GG.copy()
    sender, receiver = data.draw(st.tuples(st.integers(0, gpus - 1), st.integers(0, gpus - 1)))
    more_GG[sender, receiver] += data.draw(st.integers(1, 1000))
    assert small().all_to_all_seconds(more_GG) >= small().all_to_all_seconds(bytes_GG)


@given(st.integers(0, 2**32 - 1))
def test_renumbering_nodes_and_gpus_of_a_node_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    bytes_GG = rng.integers(0, 1000, (8, 8))
    order_G = np.concatenate([node * 2 + rng.permutation(2) for node in rng.permutation(4)])
    renumbered = small().all_to_all_seconds(bytes_GG[np.ix_(order_G, order_G)])
    assert renumbered == pytest.approx(small().all_to_all_seconds(bytes_GG))


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_even_sources_equal_their_matrices(gpus, gpus_per_node, seed):
    topology = small(gpus_per_node)
    rng = np.random.default_rng(seed)
    bytes_NG = (rng.integers(0, 1000, (5, gpus)) * rng.integers(0, 2, (5, gpus))).astype(np.float64)
    expected = [topology.all_to_all_seconds(bytes_between_gpus(bytes_G)) for bytes_G in bytes_NG]
    assert topology.even_sources_seconds(bytes_NG) == pytest.approx(expected)


def test_preset_figures_can_be_replaced():
    assert TwoLevel("h100", between_bandwidth=1e9).between.bandwidth == 1e9
    assert TwoLevel("gb200-nvl72").gpus_per_node == 72
    assert TwoLevel("h100", inside_latency=0.0).inside.latency == 0.0


def test_unknown_hardware_is_a_problem_with_a_hint():
    with pytest.raises(ProblemError, match="did you mean 'h100'"):
        TwoLevel("h10")


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.full((2, 2), -1.0), np.full((2, 2), np.nan), np.zeros((0, 0))])
def test_what_is_no_traffic_matrix_is_refused(bad):
    with pytest.raises(ValueError, match="bytes_GG"):
        small().all_to_all_seconds(bad)


@pytest.mark.parametrize("wrong", [{"gpus_per_node": 0}, {"inside_bandwidth": -1.0}, {"between_latency": -1.0}])
def test_impossible_figures_are_refused(wrong):
    with pytest.raises(ValueError, match="TwoLevel"):
        TwoLevel(**wrong)
