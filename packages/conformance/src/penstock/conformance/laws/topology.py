"""Laws of topologies: `Topology`, from the bytes between each two GPUs to seconds.

Shape suffix: G GPUs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.hooks.problems import ProblemError

TOPOLOGY = "topology"
ROUNDING = 1e-9
Bytes = NDArray[np.float64]


@law(TOPOLOGY)
def a_node_has_gpus(subject: Subject) -> None:
    """`gpus_per_node` is an int, at least 1.

    Make it an integer attribute or property of the object.
    """
    gpus = subject.build().gpus_per_node
    expect(isinstance(gpus, int) and gpus >= 1, f"gpus_per_node is {gpus!r}")


@law(TOPOLOGY, needs=(a_node_has_gpus,))
def seconds_are_finite_and_not_negative(subject: Subject) -> None:
    """Any exchange takes a finite, non-negative float of seconds, on one GPU, one node and two nodes.

    Return `float(...)`, and handle the maximum over no links.
    """
    topology = subject.build()
    for gpus in _sizes(topology):
        for bytes_GG in (np.zeros((gpus, gpus)), *_exchanges(gpus)):
            seconds = topology.all_to_all_seconds(bytes_GG)
            good = isinstance(seconds, float) and math.isfinite(seconds) and seconds >= 0
            expect(good, f"{bytes_GG.sum():g} bytes on {gpus} GPUs take {seconds!r} seconds")


@law(TOPOLOGY, needs=(seconds_are_finite_and_not_negative,))
def the_bytes_are_left_alone(subject: Subject) -> None:
    """The given matrix is not changed.

    Copy it before clearing its diagonal or dividing in place.
    """
    topology = subject.build()
    for bytes_GG in _exchanges(2 * topology.gpus_per_node):
        before = bytes_GG.copy()
        topology.all_to_all_seconds(bytes_GG)
        expect(np.array_equal(before, bytes_GG), "the matrix has changed after the call")


@law(TOPOLOGY, needs=(the_bytes_are_left_alone,))
def seconds_depend_on_the_bytes_alone(subject: Subject) -> None:
    """The same exchange takes the same seconds, regardless of earlier calls and for a new object too.

    Keep no traffic between calls, and use the whole matrix as a cache key.
    """
    topology = subject.build()
    exchanges = [bytes_GG for gpus in _sizes(topology) for bytes_GG in _exchanges(gpus)]
    forward = [topology.all_to_all_seconds(bytes_GG) for bytes_GG in exchanges]
    backward = [topology.all_to_all_seconds(bytes_GG) for bytes_GG in exchanges[::-1]][::-1]
    alone = [subject.build().all_to_all_seconds(bytes_GG) for bytes_GG in exchanges]
    expect(forward == backward, "called in another order, the seconds differ")
    expect(forward == alone, "with new objects, the seconds differ")


@law(TOPOLOGY, needs=(seconds_depend_on_the_bytes_alone,))
def whole_bytes_are_bytes(subject: Subject) -> None:
    """An integer matrix takes the same seconds as the same numbers in floats.

    Traffic is counted in integers: convert to float64 first, not to a 32-bit type.
    """
    topology = subject.build()
    for bytes_GG in _exchanges(2 * topology.gpus_per_node):
        pair = [topology.all_to_all_seconds(bytes_GG.astype(kind)) for kind in (np.int64, np.float64)]
        expect(pair[0] == pair[1], f"int64 takes {pair[0]} seconds, float64 {pair[1]}")


@law(TOPOLOGY, needs=(seconds_depend_on_the_bytes_alone,))
def what_a_gpu_keeps_takes_no_time(subject: Subject) -> None:
    """Bytes on the diagonal, from a GPU to itself, do not change the seconds.

    They stay in the GPU's memory: ignore the diagonal.
    """
    topology = subject.build()
    for gpus in _sizes(topology):
        for bytes_GG in (np.zeros((gpus, gpus)), *_exchanges(gpus)):
            kept, moved = topology.all_to_all_seconds(bytes_GG + 1e9 * np.eye(gpus)), _without_diagonal(bytes_GG)
            expect(kept == topology.all_to_all_seconds(moved), "bytes that a GPU sends to itself cost time")


@law(TOPOLOGY, needs=(what_a_gpu_keeps_takes_no_time,))
def nothing_to_send_is_done_at_once(subject: Subject) -> None:
    """An exchange of zero bytes takes no longer than one of a single byte.

    Count at most the latency if nothing is sent.
    """
    topology = subject.build()
    for gpus in _sizes(topology):
        nothing = topology.all_to_all_seconds(np.zeros((gpus, gpus)))
        for receiver in range(1, gpus):
            byte = topology.all_to_all_seconds(_message(gpus, 0, receiver, 1.0))
            expect(nothing <= byte, f"nothing takes {nothing} seconds, a byte {byte}")


@law(TOPOLOGY, needs=(nothing_to_send_is_done_at_once,))
def bytes_take_time(subject: Subject) -> None:
    """A petabyte between two GPUs takes longer than a byte.

    Divide the bytes by a bandwidth.
    """
    topology = subject.build()
    gpus = max(2, 2 * topology.gpus_per_node)
    for receiver in {1, gpus - 1}:
        few, many = (topology.all_to_all_seconds(_message(gpus, 0, receiver, size)) for size in (1.0, 1e15))
        expect(many > few, f"a petabyte from GPU 0 to GPU {receiver} takes {many} seconds, a byte {few}")


@law(TOPOLOGY, needs=(nothing_to_send_is_done_at_once,))
def twice_the_bytes_take_once_to_twice_the_time(subject: Subject) -> None:
    """Twice the bytes between all GPUs take no less time, and at most twice as much.

    Bandwidths do not fall with the bytes in flight; latencies are paid once.
    """
    topology = subject.build()
    for gpus in _sizes(topology):
        for bytes_GG in _exchanges(gpus):
            once, twice = (topology.all_to_all_seconds(factor * bytes_GG) for factor in (1, 2))
            seen = f"{once} seconds, and twice the bytes {twice}"
            expect(once * (1 - ROUNDING) <= twice <= 2 * once * (1 + ROUNDING), seen)


@law(TOPOLOGY, needs=(nothing_to_send_is_done_at_once,))
def another_node_is_no_nearer_than_a_neighbour(subject: Subject) -> None:
    """A message to another node takes no less time than one of its size inside the node.

    Check that links inside the node are the faster ones.
    """
    topology = subject.build()
    size = topology.gpus_per_node
    if size == 1:
        raise NotApplicable("a node has one GPU")
    for count in (1.0, 1e3, 1e6, 1e9):
        inside, between = (
            topology.all_to_all_seconds(_message(2 * size, 0, receiver, count)) for receiver in (1, size)
        )
        expect(inside <= between, f"{count:g} bytes take {inside} seconds inside a node, {between} between nodes")


@law(TOPOLOGY, needs=(seconds_are_finite_and_not_negative,))
def a_node_that_is_not_full_is_answered_or_refused(subject: Subject) -> None:
    """A number of GPUs that does not fill whole nodes gives finite seconds, or a ValueError or `ProblemError`.

    Ask for a multiple of `gpus_per_node`, so that the user does not see only an index error.
    """
    topology = subject.build()
    for gpus in {topology.gpus_per_node + 1, 2 * topology.gpus_per_node - 1}:
        for bytes_GG in _exchanges(gpus):
            try:
                seconds = topology.all_to_all_seconds(bytes_GG)
            except (ValueError, ProblemError):
                continue
            expect(math.isfinite(seconds) and seconds >= 0, f"{gpus} GPUs take {seconds!r} seconds")


@law(TOPOLOGY, needs=(seconds_are_finite_and_not_negative,))
def impossible_bytes_are_refused(subject: Subject) -> None:
    """Negative bytes, NaN and a non-square matrix raise ValueError or `ProblemError`.

    A wrong sign upstream must not look like a fast network.
    """
    topology = subject.build()
    gpus = max(2, topology.gpus_per_node)
    negative, unknown = _message(gpus, 0, 1, -1.0), _message(gpus, 0, 1, math.nan)
    for name, bytes_GG in (("-1 byte", negative), ("NaN", unknown), ("not square", np.zeros((gpus, gpus + 1)))):
        try:
            seconds = topology.all_to_all_seconds(bytes_GG)
        except (ValueError, ProblemError):
            continue
        expect(False, f"{name} takes {seconds!r} seconds")


@law(TOPOLOGY, needs=(twice_the_bytes_take_once_to_twice_the_time,), capability="monotone")
def more_bytes_never_end_earlier(subject: Subject) -> None:
    """Adding bytes between some GPUs never makes the exchange faster.

    Take the maximum of the links' times, not an average. Fair sharing of links may legitimately break this.
    """
    topology = subject.build()
    draw = np.random.default_rng(1)
    for gpus in _sizes(topology):
        for bytes_GG in _exchanges(gpus):
            added_GG = draw.integers(0, 1 << 20, bytes_GG.shape) * (draw.random(bytes_GG.shape) < 0.1)
            less, more = (topology.all_to_all_seconds(each) for each in (bytes_GG, bytes_GG + added_GG))
            expect(less * (1 - ROUNDING) <= more, f"{less} seconds, and with more bytes {more}")


@law(TOPOLOGY, needs=(twice_the_bytes_take_once_to_twice_the_time,), capability="subadditive")
def two_exchanges_at_once_are_not_slower(subject: Subject) -> None:
    """Two exchanges at once take no longer than one after the other.

    No penalty may grow faster than the traffic that causes it. Fair sharing of links may legitimately break this.
    """
    topology = subject.build()
    for gpus in _sizes(topology):
        exchanges = _exchanges(gpus)
        for first_GG in exchanges:
            for second_GG in exchanges:
                together = topology.all_to_all_seconds(first_GG + second_GG)
                apart = topology.all_to_all_seconds(first_GG) + topology.all_to_all_seconds(second_GG)
                expect(together <= apart * (1 + ROUNDING), f"together {together} seconds, one after the other {apart}")


@law(TOPOLOGY, needs=(seconds_depend_on_the_bytes_alone,), capability="interchangeable")
def gpus_of_a_node_are_interchangeable(subject: Subject) -> None:
    """Permuting the GPUs of a node does not change the seconds.

    Distinguish GPUs only by node. A rail-optimized network, with one rail per GPU of a node, does not declare this.
    """
    topology = subject.build()
    size: int = topology.gpus_per_node
    if size == 1:
        raise NotApplicable("a node has one GPU")
    gpus = 3 * size  # with two nodes, what leaves a node on a rail is what one GPU of the other gets
    next_G = (np.arange(size) + 1) % size
    order_G = np.concatenate([next_G, size + next_G[::-1], 2 * size + np.arange(size)])
    messages = [_message(gpus, sender, receiver, 1e6) for sender in (0, size) for receiver in (1, size + 1)]
    to_one_rail = _message(gpus, 0, size, 1e6) + _message(gpus, 1, 2 * size, 1e6)
    for bytes_GG in [*_exchanges(gpus), *messages, to_one_rail]:
        pair = [topology.all_to_all_seconds(each) for each in (bytes_GG, bytes_GG[np.ix_(order_G, order_G)])]
        expect(math.isclose(*pair, rel_tol=ROUNDING), f"{pair[0]} seconds, in another order {pair[1]}")


def _sizes(topology: Any) -> list[int]:
    """One GPU, one node, two nodes."""
    return sorted({1, topology.gpus_per_node, 2 * topology.gpus_per_node})


def _exchanges(gpus: int) -> list[Bytes]:
    """Even, random, sparse and one-sided traffic of whole bytes, some of more than 32 bits can count."""
    draw = np.random.default_rng(gpus)
    even_GG = np.full((gpus, gpus), 4096.0)
    random_GG = draw.integers(0, 1 << 34, (gpus, gpus)).astype(np.float64)
    sparse_GG = random_GG * (draw.random((gpus, gpus)) < 2 / gpus)
    into_one_GG = np.zeros((gpus, gpus))
    into_one_GG[:, 0] = 1 << 20
    from_one_GG = np.zeros((gpus, gpus))
    from_one_GG[-1] = 1 << 10
    return [even_GG, random_GG, sparse_GG, into_one_GG, from_one_GG]


def _message(gpus: int, sender: int, receiver: int, size: float) -> Bytes:
    bytes_GG = np.zeros((gpus, gpus))
    bytes_GG[sender, receiver] = size
    return bytes_GG


def _without_diagonal(bytes_GG: Bytes) -> Bytes:
    return bytes_GG * (1 - np.eye(len(bytes_GG)))


LAWS = laws_in(globals())
