"""Routers that are called with more than hidden states."""

from __future__ import annotations

import pytest
import torch

from penstock.routers.controls import TokenHash
from penstock.routers.gates import TwoLayer
from penstock.routers.load import expert_load, max_violation
from penstock.routers.topk import SigmoidTopK, SoftmaxTopK


def hidden(tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, 16, generator=torch.Generator().manual_seed(seed))


def test_a_token_hash_goes_by_the_id_alone():
    router, token_T = TokenHash(16, 8), torch.arange(4096)
    first = router(hidden(4096), token_T=token_T)
    assert torch.equal(first.expert_TK, router(hidden(4096, seed=2), token_T=token_T).expert_TK)
    assert torch.equal(first.weight_TK, torch.ones(4096, 1))
    assert max_violation(expert_load({0: first}).counts_LE)[0] < 0.15
    other = TokenHash(16, 8, seed=1)(hidden(4096), token_T=token_T)
    assert (other.expert_TK == first.expert_TK).float().mean() == pytest.approx(1 / 8, abs=0.03)
    assert not TokenHash(16, 8).state_dict()


@pytest.mark.parametrize("make", [SigmoidTopK, SoftmaxTopK, TwoLayer])
def test_a_replayed_choice_has_the_weights_and_gradient_that_choosing_it_has(make):
    torch.manual_seed(0)
    router, hidden_TD = make(16, 6, k=2, scale=2.5), hidden(20)
    chosen = router(hidden_TD)
    replayed = router(hidden_TD, expert_TK=chosen.expert_TK)
    assert torch.equal(replayed.weight_TK, chosen.weight_TK)
    expected, found = (
        torch.autograd.grad(each.weight_TK[:, 0].square().sum(), list(router.parameters()))
        for each in (chosen, replayed)
    )
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert any(gradient.any() for gradient in found)


def test_a_replayed_choice_ignores_bias_and_noise():
    torch.manual_seed(0)
    router = SigmoidTopK(16, 6, noise=3.0).train()
    router.e_score_correction_bias[0] = 100
    expert_TK = torch.tensor([[4, 5]]).expand(20, 2)
    assert torch.equal(router(hidden(20), expert_TK=expert_TK).expert_TK, expert_TK)
