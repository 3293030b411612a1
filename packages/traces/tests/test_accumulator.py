from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.traces.accumulator import TraceAccumulator


def choices(tokens: int, k: int, experts: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((tokens, experts)).argsort(axis=1)[:, :k]


@given(st.lists(st.integers(0, 6), max_size=4), st.integers(0, 9))
def test_a_trace_is_the_steps_that_were_added(lengths: list[int], seed: int) -> None:
    steps = [
        [choices(tokens, 2, 5, seed + 10 * step + layer) for layer in (0, 1)] for step, tokens in enumerate(lengths)
    ]
    recorded = TraceAccumulator([3, 7], 5)
    for step in steps:
        recorded.add(step)
    expected = np.zeros((len(steps), 2, 5), dtype=np.int64)
    for index, step in enumerate(steps):
        for row, expert_NK in enumerate(step):
            for expert in expert_NK.ravel():
                expected[index, row, expert] += 1
    trace = recorded.trace(model="toy")
    assert (recorded.steps, trace.header) == (len(steps), {"model": "toy", "layers": [3, 7]})
    np.testing.assert_array_equal(trace.counts_SLE, expected, strict=True)
    np.testing.assert_array_equal(recorded.counts_LE, expected.sum(axis=0))
    if steps:
        assert trace.expert_NLK is not None
        chosen = [token for step in steps for token in np.stack(step, axis=1).tolist()]
        assert trace.expert_NLK.tolist() == chosen
    else:
        assert trace.expert_NLK is None


@pytest.mark.parametrize(("experts", "kind"), [(256, np.uint8), (257, np.uint16)])
def test_experts_are_kept_in_as_few_bytes_as_name_them(experts: int, kind: Any) -> None:
    recorded = TraceAccumulator([0], experts)
    recorded.add([np.array([[experts - 1]])])
    chosen = recorded.expert_NLK
    assert chosen is not None
    assert (chosen.dtype, chosen.tolist()) == (kind, [[[experts - 1]]])


COUNTS = np.array([[2, 1, 1], [2, 1, 1]])
WIDE, NARROW = choices(2, 2, 3, 0), choices(2, 1, 3, 0)


@pytest.mark.parametrize(
    "steps",
    [
        [{"chosen": [WIDE, NARROW]}],
        [{"chosen": [WIDE, WIDE]}, {"chosen": [NARROW, NARROW]}],
        [{"chosen": [WIDE, WIDE]}, {"counts_LE": COUNTS}],
        [{"counts_LE": COUNTS}, {"chosen": [WIDE, WIDE]}],
    ],
)
def test_tokens_without_one_number_of_experts_are_counted_but_not_kept(steps: list[dict[str, Any]]) -> None:
    recorded = TraceAccumulator([0, 1], 3)
    for step in steps:
        recorded.add(**step)
    assert recorded.expert_NLK is None
    assert recorded.steps == len(steps)


def test_counts_that_were_made_elsewhere_are_taken_as_they_are() -> None:
    recorded = TraceAccumulator([0, 1], 3)
    recorded.add([WIDE, WIDE], counts_LE=COUNTS)
    assert recorded.counts_SLE.tolist() == [COUNTS.tolist()]
    assert recorded.expert_NLK is not None


@pytest.mark.parametrize(("domains", "kept"), [(["a", "b"], ["a", "b"]), (["a", None], None), ([], None)])
def test_domains_are_named_where_every_step_has_one(domains: list[str | None], kept: list[str] | None) -> None:
    recorded = TraceAccumulator([0, 1], 3)
    for domain in domains:
        recorded.add(counts_LE=COUNTS, domain=domain)
    assert recorded.trace().header.get("domains") == kept


def test_a_step_of_another_model_is_refused() -> None:
    recorded = TraceAccumulator([0, 1], 3)
    steps: list[dict[str, Any]] = [{"counts_LE": COUNTS[:1]}, {"chosen": [WIDE]}, {"chosen": [WIDE, WIDE + 1]}]
    for step in steps:
        with pytest.raises(ValueError, match="2 layers of 3 experts"):
            recorded.add(**step)
    with pytest.raises(ValueError, match="experts of its tokens or their counts"):
        recorded.add()
    assert recorded.steps == 0
