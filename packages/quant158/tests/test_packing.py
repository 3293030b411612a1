"""Laws of the packed form, against arithmetic on Python integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.quant158.packing import pack, pack_nibbles, unpack

trits = st.lists(st.integers(-1, 1), min_size=0, max_size=23)


def packed_by_hand(flat: list[int]) -> list[int]:
    padded = flat + [0] * (-len(flat) % 5)
    return [sum((padded[start + i] + 1) * 3**i for i in range(5)) for start in range(0, len(padded), 5)]


@settings(deadline=None)
@given(trits)
def test_bytes_are_five_base_three_digits_lowest_first(flat: list[int]):
    assert pack(torch.tensor(flat, dtype=torch.int8)).tolist() == packed_by_hand(flat)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=3), st.integers(0, 17), st.randoms(use_true_random=False))
def test_unpack_inverts_pack_for_any_shape(leading: list[int], length: int, random):
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    trit = torch.randint(-1, 2, (*leading, length), generator=generator, dtype=torch.int8)
    packed = pack(trit)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, trit.shape), trit)


def test_rows_are_one_stream_without_padding():
    trit = torch.randint(-1, 2, (2, 3, 7))
    assert torch.equal(pack(trit), pack(trit.flatten()))
    assert len(pack(trit)) == 9  # 42 trits; three bytes a row would be 18


def test_all_243_codes_are_used_and_distinct():
    trit = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 5)
    assert sorted(pack(trit).tolist()) == list(range(243))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32, torch.bfloat16])
def test_the_dtype_of_the_trits_does_not_matter(dtype: torch.dtype):
    assert pack(torch.tensor([1, -1, 0], dtype=dtype)).tolist() == packed_by_hand([1, -1, 0])


@pytest.mark.parametrize("value", [2.0, 0.5, float("nan"), -1.0001])
def test_other_values_are_refused(value: float):
    with pytest.raises(ValueError, match="other than -1, 0 and 1"):
        pack(torch.tensor([[0.0, value]]))


def test_a_byte_that_pack_never_writes_is_refused():
    with pytest.raises(ValueError, match="above 242"):
        unpack(torch.tensor([243], dtype=torch.uint8), (5,))


def test_a_length_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"22 trits need uint8 \(5,\), not torch.uint8 \(4,\)"):
        unpack(torch.zeros(4, dtype=torch.uint8), (2, 11))


@settings(deadline=None)
@given(st.lists(st.integers(-7, 7), max_size=9))
def test_nibbles_are_two_codes_a_byte_low_half_first(level: list[int]):
    padded = [value + 8 for value in level + [0] * (len(level) % 2)]
    expected = [low + 16 * high for low, high in zip(padded[::2], padded[1::2], strict=True)]
    assert pack_nibbles(torch.tensor(level, dtype=torch.int8)).tolist() == expected
