from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.routers.capacity import tokens_an_expert, within_capacity
from penstock.routers.load import expert_load
from penstock.routers.topk import SigmoidTopK, SoftmaxTopK


def hidden(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, 8, generator=torch.Generator().manual_seed(seed))


@given(tokens=st.integers(0, 12), k=st.integers(1, 3), capacity=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None)
def test_experts_serve_tokens_in_their_order_until_they_are_full(tokens, k, capacity, seed):
    expert_TK = torch.rand(tokens, 4, generator=torch.Generator().manual_seed(seed)).argsort()[:, :k]
    served, expected = [0] * 4, []
    for row in expert_TK.tolist():
        expected.append([served[expert] < capacity for expert in row])
        for expert in row:
            served[expert] += 1
    kept_TK = within_capacity(expert_TK, experts=4, capacity=capacity)
    np.testing.assert_array_equal(kept_TK.numpy(), np.array(expected, dtype=bool).reshape(tokens, k))


@pytest.mark.parametrize(("factor", "capacity"), [(1.0, 5), (0.5, 3), (1.25, 7), (0.001, 1), (4.0, 20)])
def test_capacity_is_the_factor_times_the_even_share_rounded_up(factor, capacity):
    assert tokens_an_expert(factor, tokens=10, k=2, experts=4) == capacity


@pytest.mark.parametrize("kind", [SigmoidTopK, SoftmaxTopK])
def test_what_is_dropped_is_counted_and_weighs_nothing_and_the_rest_is_as_without_capacity(kind):
    torch.manual_seed(0)
    plain = kind(8, 4)
    capped = kind(8, 4, capacity=0.8)
    capped.load_state_dict(plain.state_dict())
    hidden_TD = hidden(30) + 1
    chosen, routing = plain(hidden_TD), capped(hidden_TD)
    load = expert_load({0: routing})
    assert load.dropped_LE is not None
    assert load.counts_LE.max() == tokens_an_expert(0.8, 30, 2, 4)
    assert torch.equal(load.counts_LE + load.dropped_LE, expert_load({0: chosen}).counts_LE)
    assert torch.equal(routing.weight_TK, torch.where(routing.kept_TK, chosen.weight_TK, 0.0))


def test_without_a_token_too_many_nothing_is_dropped():
    routing = SigmoidTopK(8, 4, capacity=4.0)(hidden(30))
    assert routing.kept_TK.all()
    assert not routing.dropped_TK.any()
