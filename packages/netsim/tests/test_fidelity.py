"""The three fidelities by hand, where they must agree, and where each knows what the others do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks import ProblemError
from penstock.netsim.fidelity import FIDELITIES, alpha_beta, exchange, loggp
from penstock.netsim.network import Flows, Network
from penstock.netsim.port import Port
from penstock.netsim.topologies import two_level_network
from penstock.netsim.topology import TwoLevel

INSIDE, BETWEEN = Port(100.0, 1.0), Port(10.0, 2.0)


def small(inside: Port = INSIDE, between: Port = BETWEEN) -> Network:
    return two_level_network(4, 2, inside, between)


def matrix(**messages: float) -> np.ndarray:
    """`m01=5`: GPU 0 sends 5 bytes to GPU 1."""
    bytes_GG = np.zeros((4, 4))
    for name, size in messages.items():
        bytes_GG[int(name[1]), int(name[2])] = size
    return bytes_GG


matrices = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 500, (4, 4)).astype(float)
)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_message_alone_takes_latency_and_bytes_over_bandwidth(fidelity):
    one = exchange(small(), Flows.of(matrix(m02=50)), fidelity)
    assert (one.seconds, one.finish_F.tolist()) == (pytest.approx(7), [pytest.approx(7)])
    assert one.finish_G == pytest.approx([7, 0, 7, 0])
    assert exchange(small(), Flows.of(matrix(m01=50)), fidelity).seconds == pytest.approx(1.5)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_nothing_takes_no_time(fidelity):
    assert exchange(small(), Flows.of(np.diag([1e9] * 4)), fidelity).seconds == 0.0


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_incast_ends_when_the_port_has_carried_all(fidelity):
    """GPUs 2 and 3 send 100 bytes each to GPU 0, whose port takes 10 bytes/s."""
    assert exchange(small(), Flows.of(matrix(m20=100, m30=100)), fidelity).seconds == pytest.approx(22)


def test_fluid_shares_and_loggp_takes_turns():
    """GPU 0 sends 10 bytes to GPU 2 and 30 to GPU 3 through one port of 10 bytes/s."""
    flows = Flows.of(matrix(m02=10, m03=30))
    assert exchange(small(), flows, "fluid").finish_F == pytest.approx([2 + 2, 2 + 4])
    assert exchange(small(), flows, "loggp").finish_F == pytest.approx([2 + 1, 2 + 4])
    assert exchange(small(), flows, "alpha-beta").finish_F == pytest.approx([2 + 4, 2 + 4])


@settings(deadline=None)
@given(matrices)
def test_alpha_beta_equals_the_port_bound_of_two_level(bytes_GG):
    topology = TwoLevel(
        gpus_per_node=2, inside_bandwidth=100.0, inside_latency=1.0, between_bandwidth=10.0, between_latency=2.0
    )
    assert alpha_beta(small(), Flows.of(bytes_GG)).seconds == pytest.approx(topology.all_to_all_seconds(bytes_GG))


def dumb_loggp(bytes_GG: np.ndarray, inside: Port, between: Port) -> dict[tuple[int, int], float]:
    """One message at a time; receivers take what begins to arrive first, lower senders first among equals."""
    gpus, ends = len(bytes_GG), {}
    for port, same in ((inside, True), (between, False)):
        begins = []
        for sender in range(gpus):
            free = 0.0
            for turn in range(1, gpus):
                receiver = (sender + turn) % gpus
                size = bytes_GG[sender][receiver]
                if size and (sender // 2 == receiver // 2) == same:
                    begins.append((free + port.latency, sender, receiver, size / port.bandwidth))
                    free += size / port.bandwidth + port.peer_overhead
        free_at = [0.0] * gpus
        for begin, sender, receiver, wire in sorted(begins):
            free_at[receiver] = max(free_at[receiver], begin) + wire
            ends[sender, receiver] = free_at[receiver]
    return ends


@settings(deadline=None)
@given(matrices, st.sampled_from([0.0, 0.75]))
def test_loggp_equals_one_message_at_a_time(bytes_GG, overhead):
    inside, between = Port(64.0, 1.0, overhead), Port(8.0, 2.0, overhead)  # exact in binary, so equal times stay equal
    found = loggp(small(inside, between), Flows.of(bytes_GG))
    expected = dumb_loggp(bytes_GG, inside, between)
    for source, target, finish in zip(found.flows.source_F, found.flows.target_F, found.finish_F, strict=True):
        assert finish == pytest.approx(expected[int(source), int(target)])


@settings(deadline=None)
@given(matrices)
def test_loggp_is_never_faster_than_a_port(bytes_GG):
    flows = Flows.of(bytes_GG)
    assert loggp(small(), flows).seconds >= alpha_beta(small(), flows).seconds - 2.0 - 1e-9


@pytest.mark.parametrize("fidelity", FIDELITIES)
@given(matrices, st.integers(0, 3), st.integers(0, 3))
def test_a_gpus_time_is_that_of_its_last_message(fidelity, bytes_GG, first, second):
    found = exchange(small(), Flows.of(bytes_GG), fidelity)
    for gpu in (first, second):
        own = found.finish_F[(found.flows.source_F == gpu) | (found.flows.target_F == gpu)]
        assert found.finish_G[gpu] == pytest.approx(own.max(initial=0.0))
    assert found.finish_G[found.slowest_gpu] == found.seconds


def test_larger_messages_pay_for_rendezvous_and_every_peer_after_the_first_for_itself():
    port = Port(10.0, 2.0, peer_overhead=0.5, eager_bytes=20, rendezvous=3.0)
    assert alpha_beta(small(between=port), Flows.of(matrix(m02=20))).seconds == pytest.approx(4)
    assert alpha_beta(small(between=port), Flows.of(matrix(m02=30))).seconds == pytest.approx(8)
    assert alpha_beta(small(between=port), Flows.of(matrix(m02=10, m03=10))).seconds == pytest.approx(4.5)


def test_the_timeline_shows_when_links_are_in_use():
    found = exchange(small(), Flows.of(matrix(m02=10, m03=30, m12=10)), "fluid")
    assert found.timeline is not None
    out = small().link_names.index("port out 0")
    assert found.timeline.use_EL[:, out].tolist() == pytest.approx([1.0] * len(found.timeline.begin_E))
    assert found.timeline.begin_E[0] == 0.0


def test_an_unknown_fidelity_is_a_problem_with_a_hint():
    with pytest.raises(ProblemError, match="did you mean 'fluid'"):
        exchange(small(), Flows.of(matrix(m01=1)), "fluit")


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.full((2, 2), -1.0), np.full((2, 2), np.nan), np.zeros((0, 0))])
def test_what_is_no_traffic_matrix_is_refused(bad):
    with pytest.raises(ValueError, match="bytes_GG"):
        Flows.of(bad)
