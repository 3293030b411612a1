from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.hooks.contracts import Routing
from penstock.routers import load
from penstock.traces import load as figures

COUNTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=st.integers(0, 1000))
FIGURES = ("max_violation", "gini", "coefficient_of_variation", "entropy", "dead_experts")


def routing(expert_TK: torch.Tensor, experts: int) -> Routing:
    scores = torch.zeros(len(expert_TK), experts)
    return Routing(expert_TK, torch.zeros(expert_TK.shape), scores, scores)


def choices(tokens: int, k: int, experts: int, seed: int) -> torch.Tensor:
    return torch.rand(tokens, experts, generator=torch.Generator().manual_seed(seed)).argsort()[:, :k]


@given(
    tokens=st.integers(0, 8),
    ks=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_load_counts_what_a_loop_counts(tokens, ks, masked, seed):
    chosen = {10 - row: choices(tokens, k, 5, seed + row) for row, k in enumerate(ks)}
    mask_T = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    result = load.expert_load({layer: routing(expert_TK, 5) for layer, expert_TK in chosen.items()}, mask_T)

    expected = np.zeros((len(ks), 5), dtype=np.int64)
    for row, layer in enumerate(sorted(chosen)):
        for token in range(tokens):
            if mask_T is None or mask_T[token]:
                for expert in chosen[layer][token].tolist():
                    expected[row, expert] += 1
    assert result.layers == tuple(sorted(chosen))
    assert result.counts_LE.dtype == torch.int64
    np.testing.assert_array_equal(result.counts_LE.numpy(), expected)


@given(tokens=st.integers(0, 8), k=st.integers(1, 4), masked=st.booleans(), seed=st.integers(0, 99))
def test_kept_and_dropped_assignments_are_counted_apart_and_empty_slots_not_at_all(tokens, k, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    state_TK = torch.randint(0, 3, (tokens, k), generator=generator)  # 0 empty, 1 kept, 2 dropped
    plain, capped = routing(choices(tokens, 2, 5, seed), 5), routing(choices(tokens, k, 5, seed), 5)
    capped = replace(capped, kept_TK=state_TK == 1, dropped_TK=state_TK == 2)
    mask_T = torch.rand(tokens, generator=generator) < 0.6 if masked else None
    result = load.expert_load({3: plain, 4: capped}, mask_T)

    kept, dropped = np.zeros((2, 5), dtype=np.int64), np.zeros((2, 5), dtype=np.int64)
    for token in range(tokens):
        if mask_T is None or mask_T[token]:
            for expert in plain.expert_TK[token].tolist():
                kept[0, expert] += 1
            for expert, state in zip(capped.expert_TK[token].tolist(), state_TK[token].tolist(), strict=True):
                kept[1, expert] += state == 1
                dropped[1, expert] += state == 2
    np.testing.assert_array_equal(result.counts_LE.numpy(), kept)
    assert result.dropped_LE is not None
    np.testing.assert_array_equal(result.dropped_LE.numpy(), dropped)


def test_where_slots_are_only_empty_nothing_is_dropped():
    half = replace(routing(choices(4, 2, 5, 0), 5), kept_TK=torch.tensor([[True, False]] * 4))
    result = load.expert_load({0: half})
    assert result.counts_LE.sum() == 4
    assert result.dropped_LE is None


def test_loads_of_two_passes_add_up_and_what_tokens_chose_is_kept_and_dropped():
    plain = load.expert_load({0: routing(choices(6, 2, 5, 0), 5)})
    dropped_TK = torch.tensor([[True, False]] * 4)
    capped = load.expert_load({0: replace(routing(choices(4, 2, 5, 1), 5), kept_TK=~dropped_TK, dropped_TK=dropped_TK)})
    assert capped.chosen_LE.sum() == 8
    assert (plain + plain).dropped_LE is None
    assert torch.equal((plain + plain).chosen_LE, 2 * plain.counts_LE)
    for total in (plain + capped, capped + plain):
        assert total.dropped_LE is not None
        assert capped.dropped_LE is not None
        assert torch.equal(total.counts_LE, plain.counts_LE + capped.counts_LE)
        assert torch.equal(total.dropped_LE, capped.dropped_LE)
        assert torch.equal(total.chosen_LE, plain.chosen_LE + capped.chosen_LE)


def test_loads_of_different_layers_have_no_sum():
    one, other = (load.expert_load({layer: routing(choices(3, 2, 4, 0), 4)}) for layer in (1, 2))
    with pytest.raises(ValueError, match=r"layers \(1,\) and \(2,\)"):
        _ = one + other


def test_a_dense_model_has_an_empty_load():
    result = load.expert_load({})
    assert result.counts_LE.shape == (0, 0)
    assert result.layers == ()
    assert load.load_metrics(result.counts_LE) == {}


def test_layers_with_different_experts_are_refused_by_name():
    with pytest.raises(ValueError, match=r"\{1: 4, 2: 6\}"):
        load.expert_load({1: routing(choices(3, 2, 4, 0), 4), 2: routing(choices(3, 2, 6, 0), 6)})


@pytest.mark.parametrize("name", FIGURES)
@given(counts_LE=COUNTS)
def test_a_figure_of_a_tensor_is_that_of_the_array(name, counts_LE):
    result = getattr(load, name)(torch.from_numpy(counts_LE))
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), getattr(figures, name)(counts_LE), rtol=0, atol=1e-12)


@given(counts_LE=COUNTS)
def test_what_is_logged_of_a_tensor_is_what_is_logged_of_the_array(counts_LE):
    assert load.load_metrics(torch.from_numpy(counts_LE)) == pytest.approx(figures.load_metrics(counts_LE), abs=1e-12)
