"""Every topology's routes and times, by hand and against loops over messages, and what all networks have in common."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks import ProblemError, Registry
from penstock.netsim.fidelity import alpha_beta, exchange
from penstock.netsim.network import Flows
from penstock.netsim.topologies import Cable, Dragonfly, FatTree, Graph, RailOptimised, Ring, SingleNode, Torus
from penstock.netsim.topology import TwoLevel

FIGURES: dict[str, Any] = {
    "inside_bandwidth": 100.0,
    "inside_latency": 1.0,
    "between_bandwidth": 10.0,
    "between_latency": 2.0,
}
TOPOLOGIES = {
    "two-level": TwoLevel(gpus_per_node=2, **FIGURES),
    "single-node": SingleNode(gpus_per_node=8, **FIGURES),
    "pcie": SingleNode(gpus_per_node=8, gpus_per_switch=2, bridge_bandwidth=50.0, **FIGURES),
    "rail-optimised": RailOptimised(gpus_per_node=2, **FIGURES),
    "fat-tree": FatTree(gpus_per_node=2, nodes_per_leaf=2, oversubscription=3.0, **FIGURES),
    "dragonfly": Dragonfly(gpus_per_node=2, nodes_per_group=1, taper=2.0, **FIGURES),
    "torus": Torus(**FIGURES),
    "ring": Ring(**FIGURES),
    "graph": Graph(gpus_per_node=2, links=[Cable((gpu, "switch"), 10.0 + gpu) for gpu in range(8)], **FIGURES),
}


def links_of(topology, gpus, source, target):
    network = topology.network(gpus)
    row = network.route(np.array([source]), np.array([target]))[0]
    return [network.link_names[link] for link in row if link >= 0]


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_even_sources_equal_their_matrices(topology, seed):
    rng = np.random.default_rng(seed)
    bytes_NG = (rng.integers(0, 1000, (4, 8)) * rng.integers(0, 2, (4, 8))).astype(np.float64)
    expected = [topology.all_to_all_seconds(np.tile(bytes_G, (8, 1))) for bytes_G in bytes_NG]
    assert topology.even_sources_seconds(bytes_NG) == pytest.approx(expected)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_fluid_is_never_faster_than_the_busiest_link(topology, seed):
    flows = Flows.of(np.random.default_rng(seed).integers(0, 1000, (8, 8)))
    network = topology.network(8)
    starts = network.start_seconds(flows).max(initial=0.0)
    assert exchange(network, flows, "fluid").seconds >= alpha_beta(network, flows).seconds - starts - 1e-9


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_message_has_a_route_over_links_that_exist(topology):
    network = topology.network(8)
    assert len(network.link_names) == len(network.capacity_L)
    for source, target in itertools.permutations(range(8), 2):
        row = network.route(np.array([source]), np.array([target]))[0]
        used = row[row >= 0]
        assert 0 < len(used) == len(set(used.tolist()))
        assert used.max() < len(network.capacity_L)


def test_a_message_to_another_rail_goes_by_way_of_its_own_node():
    rail = TOPOLOGIES["rail-optimised"]
    assert links_of(rail, 8, 0, 1) == ["nvlink out 0", "nvlink in 1"]
    assert links_of(rail, 8, 0, 2) == ["rail out 0", "rail in 2"]
    assert links_of(rail, 8, 0, 3) == ["nvlink out 0", "nvlink in 1", "rail out 1", "rail in 3"]


def test_only_messages_between_leaves_use_the_uplinks():
    tree = TOPOLOGIES["fat-tree"]
    assert links_of(tree, 8, 0, 3) == ["port out 0", "port in 3"]
    assert links_of(tree, 8, 0, 7) == ["port out 0", "port in 7", "leaf up 0", "leaf down 1"]
    assert tree.network(8).capacity_L[-4:] == pytest.approx([2 * 2 * 10 / 3] * 4)


def test_groups_are_joined_in_pairs():
    assert links_of(TOPOLOGIES["dragonfly"], 8, 1, 6) == ["port out 1", "port in 6", "group 0 to 3"]
    assert TOPOLOGIES["dragonfly"].network(8).capacity_L[-1] == pytest.approx(2 * 10 / 2 / 3)


def test_a_ring_takes_the_shorter_way():
    ring = TOPOLOGIES["ring"]
    assert links_of(ring, 5, 0, 2) == ["on from 0 along 0", "on from 1 along 0"]
    assert links_of(ring, 5, 0, 3) == ["back from 0 along 0", "back from 4 along 0"]


@pytest.mark.parametrize("sides", [(4, 4), (2, 3, 4), (5,), (1, 6), (2, 2)])
def test_torus_routes_are_as_long_as_the_distance(sides):
    gpus = int(np.prod(sides))
    network = Torus(dimensions=list(sides), **FIGURES).network(gpus)
    for source, target in itertools.permutations(range(gpus), 2):
        here, there = np.unravel_index(source, sides), np.unravel_index(target, sides)
        apart = sum(min((a - b) % n, (b - a) % n) for a, b, n in zip(here, there, sides, strict=True))
        row = network.route(np.array([source]), np.array([target]))[0]
        assert (row >= 0).sum() == apart


def test_the_bridge_of_a_pcie_host_limits_what_crosses_it():
    """Each of 4 GPUs sends 100 bytes to each other one: 800 of 1,200 bytes cross the bridge of 50 bytes/s."""
    pcie = SingleNode(gpus_per_node=8, gpus_per_switch=2, bridge_bandwidth=50.0, **FIGURES)
    assert pcie.all_to_all_seconds(np.full((4, 4), 100.0)) == pytest.approx(1 + 800 / 50)


def test_oversubscription_costs_time_only_between_leaves():
    full, tight = (FatTree(gpus_per_node=1, nodes_per_leaf=2, oversubscription=o, **FIGURES) for o in (1.0, 4.0))
    near, far = np.zeros((4, 4)), np.zeros((4, 4))
    near[0, 1] = near[1, 0] = far[0, 2] = far[1, 3] = 100.0
    assert tight.all_to_all_seconds(near) == full.all_to_all_seconds(near) == pytest.approx(12)
    assert full.all_to_all_seconds(far) == pytest.approx(12)
    assert tight.all_to_all_seconds(far) == pytest.approx(2 + 200 / 5)


def test_a_disconnected_network_is_a_problem_that_names_a_pair():
    graph = Graph(links=[Cable((0, "a"), 1.0), Cable((1, "b"), 1.0)])
    with pytest.raises(ProblemError, match="GPU 0 cannot reach GPU 1") as caught:
        graph.network(2)
    assert caught.value.problems[0].code == "disconnected-topology"


@pytest.mark.parametrize(
    ("topology", "gpus", "message"),
    [
        (Torus(dimensions=[3, 3]), 8, "3 x 3 does not have 8"),
        (RailOptimised(gpus_per_node=8), 12, "whole nodes of 8"),
    ],
)
def test_numbers_of_gpus_that_do_not_fit_are_problems(topology, gpus, message):
    with pytest.raises(ProblemError, match=message):
        topology.all_to_all_seconds(np.ones((gpus, gpus)))


def test_half_a_pcie_host_is_a_problem():
    with pytest.raises(ProblemError, match="must be set together"):
        SingleNode(gpus_per_switch=2)


@pytest.mark.parametrize(
    "config",
    [
        {"use": "single-node", "hardware": "l40s-pcie", "gpus_per_switch": 2, "bridge_bandwidth": 12e9},
        {"use": "rail-optimised", "hardware": "h100"},
        {"use": "fat-tree", "oversubscription": 2.0, "nodes_per_leaf": 2},
        {"use": "dragonfly", "taper": 2.0},
        {"use": "torus", "dimensions": [2, 4]},
        {"use": "ring"},
        {"use": "graph", "links": [{"between": [gpu, "hub"], "bandwidth": 1e9} for gpu in range(8)]},
    ],
    ids=lambda config: config["use"],
)
def test_components_build_by_name(config):
    topology = Registry.discover().build("topology", config)
    assert topology.all_to_all_seconds(np.full((8, 8), 1e6)) > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use": "ring", "between_bandwidth": -1.0}, "between_bandwidth"),
        ({"use": "graph", "links": [{"between": [0, 1], "bandwidth": -5.0}]}, "bandwidth"),
        ({"use": "graph", "links": []}, "links"),
    ],
)
def test_bad_figures_are_problems(config, message):
    with pytest.raises(ProblemError, match=message):
        Registry.discover().build("topology", config)
