from __future__ import annotations

import numpy as np
import torch

from penstock.routers.keyed import gumbel, keys_of_integers, keys_of_rows, uniform

MASK = 2**64 - 1


def dumb_mixed(value: int) -> int:
    """SplitMix64's finalizer on Python's unbounded integers."""
    value &= MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def rows(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, 8, generator=torch.Generator().manual_seed(seed))


def test_keys_and_draws_are_splitmix64_of_unbounded_integers():
    values, seed, golden = [0, 1, -5, 2**40], 11, 0x9E3779B97F4A7C15
    keys = [dumb_mixed(dumb_mixed(value) ^ seed) for value in values]
    assert [key & MASK for key in keys_of_integers(torch.tensor(values), seed).tolist()] == keys
    drawn = [[dumb_mixed(key + dumb_mixed(column * golden)) >> 41 for column in (1, 2, 3)] for key in keys]
    expected = (np.array(drawn) + 0.5) / 2**23
    np.testing.assert_array_equal(uniform(keys_of_integers(torch.tensor(values), seed), 3).numpy(), expected)


def test_a_row_has_the_same_key_alone_as_among_others_and_in_any_exact_type():
    row_TD = rows(6).bfloat16()
    key_T = keys_of_rows(row_TD, 3)
    assert torch.equal(keys_of_rows(row_TD[4:5].double(), 3), key_T[4:5])
    assert torch.equal(keys_of_rows(-torch.zeros(1, 8), 3), keys_of_rows(torch.zeros(1, 8), 3))


def test_one_bit_of_a_row_or_of_the_seed_changes_half_of_the_key():
    row_TD = rows(500)
    nudged_TD = row_TD.clone()
    nudged_TD[:, 5] = torch.nextafter(nudged_TD[:, 5], torch.tensor(9.0))
    for other in (keys_of_rows(nudged_TD, 0), keys_of_rows(row_TD, 1), keys_of_rows(row_TD.flip(-1), 0)):
        bits = [(one ^ two) & MASK for one, two in zip(keys_of_rows(row_TD, 0).tolist(), other.tolist(), strict=True)]
        assert 31 < np.mean([bit.bit_count() for bit in bits]) < 33


def test_draws_are_uniform_and_columns_independent():
    drawn_TE = uniform(keys_of_rows(rows(20_000), 0), 4)
    assert drawn_TE.min() > 0
    assert drawn_TE.max() < 1
    np.testing.assert_allclose(drawn_TE.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(drawn_TE.var(0), 1 / 12, atol=0.003)
    np.testing.assert_allclose(np.corrcoef(drawn_TE.T.numpy()), np.eye(4), atol=0.03)


def test_the_highest_of_logits_and_gumbel_noise_is_a_draw_from_their_softmax():
    logits_E = torch.tensor([0.0, 1.0, -1.0, 2.0])
    choice_T = (logits_E + gumbel(keys_of_rows(rows(20_000), 0), 4)).argmax(-1)
    np.testing.assert_allclose(choice_T.bincount() / 20_000, logits_E.softmax(-1), atol=0.015)
