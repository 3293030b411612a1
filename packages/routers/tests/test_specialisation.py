"""Laws of specialisation: what the choice of experts has to do with the token."""

from __future__ import annotations

import pytest
import torch

from penstock.routers.specialisation import token_specialisation

TOKEN_T = torch.randint(0, 50, (6000,), generator=torch.Generator().manual_seed(0))


def test_experts_that_the_id_decides_have_all_of_it() -> None:
    assert token_specialisation((TOKEN_T % 8)[:, None], TOKEN_T, 8) == pytest.approx(1.0)


def test_experts_by_chance_or_in_turn_have_none() -> None:
    chance_TK = torch.rand(6000, 8, generator=torch.Generator().manual_seed(1)).topk(2).indices
    in_turn_TK = torch.arange(6000)[:, None] % 8
    for expert_TK in (chance_TK, in_turn_TK):
        assert abs(token_specialisation(expert_TK, TOKEN_T, 8)) < 0.01


def test_half_of_the_tokens_decided_is_between() -> None:
    chance_T = torch.randint(0, 8, (6000,), generator=torch.Generator().manual_seed(2))
    mixed_T = torch.where(torch.arange(6000) % 2 == 0, TOKEN_T % 8, chance_T)
    assert 0.1 < token_specialisation(mixed_T[:, None], TOKEN_T, 8) < 0.6


def test_one_expert_for_all_and_no_tokens_have_none() -> None:
    assert token_specialisation(torch.zeros(10, 1, dtype=torch.int64), TOKEN_T[:10], 8) == 0
    assert token_specialisation(torch.zeros(0, 2, dtype=torch.int64), TOKEN_T[:0], 8) == 0
