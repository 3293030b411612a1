"""Laws of ternary weights: the grid, the scale, the gradient and the true size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penstock.hooks.problems import ProblemError
from penstock.quant158.packing import pack, unpack
from penstock.quant158.stored import GROUPS, SMALLEST_SCALE, Group
from penstock.quant158.ternary import TernaryQuantizer, ternarize

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
groups = st.sampled_from(GROUPS)
dtypes = st.sampled_from(DTYPES)


@st.composite
def weights(draw: st.DrawFn, max_leading: int = 2) -> Tensor:
    """Random matrices of any magnitude, with zeros and with leading dimensions."""
    shape = [
        *draw(st.lists(st.integers(1, 3), max_size=max_leading)),
        draw(st.integers(1, 7)),
        draw(st.one_of(st.integers(1, 12), st.sampled_from([64, 65, 130, 257]))),
    ]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    weight = torch.randn(shape, generator=generator) * draw(st.sampled_from([1e-7, 0.02, 1.0, 300.0]))
    return weight * (torch.rand(shape, generator=generator) > draw(st.sampled_from([0.0, 0.5, 1.0])))


def ternary_by_hand(matrix: np.ndarray) -> np.ndarray:
    """Equations 1 to 3 of arXiv:2402.17764 with the scale of a file, one number at a time, in fp32."""
    total = np.float32(0)
    for value in matrix.flat:
        total += np.float32(abs(value))
    scale = np.float32(np.float16(max(total / np.float32(matrix.size), np.float32(2**-14))))
    quantized = [min(1, max(-1, round(float(np.float32(value) / scale)))) * scale for value in matrix.flat]
    return np.array(quantized, dtype=np.float32).reshape(matrix.shape)


@settings(deadline=None)
@given(st.integers(1, 6), st.sampled_from([1, 5, 9, 63, 64, 131]), st.randoms(use_true_random=False), groups)
def test_values_are_those_of_the_paper(out: int, inner: int, random, group: Group):
    # Multiples of 1/64 sum without rounding, so the order of the sum cannot matter.
    numbers = [[random.randint(-200, 200) / 64 for _ in range(inner)] for _ in range(out)]
    matrix = np.array(numbers, dtype=np.float32)
    width = inner if isinstance(group, str) else group
    expected = matrix.copy()
    for rows in [slice(None)] if group == "tensor" else [slice(row, row + 1) for row in range(out)]:
        for start in range(0, inner, width):
            expected[rows, start : start + width] = ternary_by_hand(matrix[rows, start : start + width])
    actual = TernaryQuantizer(group=group).fake_quantize(torch.from_numpy(matrix))
    np.testing.assert_array_equal(actual.numpy(), expected)


@settings(deadline=None)
@given(weights(), groups, dtypes)
def test_the_forward_value_is_exactly_the_unpacked_one(weight: Tensor, group: Group, dtype: torch.dtype):
    weight = weight.to(dtype)
    stored = ternarize(weight, group)
    unpacked = replace(stored, trit=unpack(pack(stored.trit), weight.shape)).value()
    quantized = TernaryQuantizer(group=group).fake_quantize(weight)
    assert quantized.dtype == dtype
    assert torch.equal(quantized, unpacked.to(dtype))
    assert not torch.signbit(quantized[quantized == 0]).any()


@settings(deadline=None)
@given(weights(max_leading=3), groups)
def test_packed_bytes_are_the_bytes_of_the_packed_arrays(weight: Tensor, group: Group):
    stored = ternarize(weight, group)
    assert stored.scale.dtype == torch.float16
    packed = pack(stored.trit).nbytes + stored.scale.nbytes
    assert TernaryQuantizer(group=group).packed_bytes(tuple(weight.shape)) == packed


@pytest.mark.parametrize(
    ("shape", "group", "expected"),
    [
        ((1, 1), "tensor", 1 + 2),
        ((3, 5), "tensor", 3 + 2),
        ((3, 6), "tensor", 4 + 2),
        ((3, 6), "row", 4 + 3 * 2),
        ((3, 65), 64, 39 + 6 * 2),
        ((160, 3072, 5120), "tensor", 160 * 3072 * 1024 + 160 * 2),
        ((160, 3072, 5120), 128, 160 * 3072 * 1024 + 160 * 3072 * 40 * 2),
    ],
)
def test_packed_bytes_of_known_shapes(shape: tuple[int, ...], group: Group, expected: int):
    assert TernaryQuantizer(group=group).packed_bytes(shape) == expected


@settings(deadline=None)
@given(weights(), groups, dtypes)
def test_the_gradient_passes_unchanged(weight: Tensor, group: Group, dtype: torch.dtype):
    weight = weight.to(dtype).requires_grad_()
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (TernaryQuantizer(group=group).fake_quantize(weight) * gradient).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, gradient)


@settings(deadline=None)
@given(weights(), groups)
def test_leading_dimensions_are_independent_matrices_bit_for_bit(weight: Tensor, group: Group):
    quantizer = TernaryQuantizer(group=group)
    matrices = weight.flatten(0, -3) if weight.ndim > 2 else weight.unsqueeze(0)
    apart = torch.stack([quantizer.fake_quantize(matrix) for matrix in matrices.unbind()])
    assert torch.equal(quantizer.fake_quantize(weight), apart.view_as(weight))


def test_experts_of_realistic_size_are_independent_bit_for_bit():
    weight = torch.randn(5, 384, 517, generator=torch.Generator().manual_seed(0))
    apart = torch.stack([ternarize(matrix).scale for matrix in weight.unbind()])
    assert torch.equal(ternarize(weight).scale, apart)


@pytest.mark.parametrize("shape", [(700, 900), (1, 70_000)], ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_the_scale_does_not_depend_on_the_number_of_threads(shape: tuple[int, ...], group: Group):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    scales: list[Tensor] = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            scales.append(ternarize(weight, group).scale)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(scale, scales[0]) for scale in scales)


def test_a_scale_is_a_number_of_fp16_however_large_the_weight():
    for size in (1e-9, 1e-5, 0.02, 3.0, 65504.0, 1e30):
        scale = ternarize(torch.full((2, 3), size)).scale
        assert scale.isfinite().all()
        assert (scale >= SMALLEST_SCALE).all()


@settings(deadline=None)
@given(weights(), groups, dtypes)
def test_quantizing_twice_keeps_the_signs(weight: Tensor, group: Group, dtype: torch.dtype):
    quantizer = TernaryQuantizer(group=group)
    once = quantizer.fake_quantize(weight.to(dtype))
    assert torch.equal(quantizer.fake_quantize(once).sign(), once.sign())


def test_quantizing_twice_shrinks_the_scale_by_the_share_of_zeros():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    once = ternarize(weight)
    twice = ternarize(once.value())
    kept = once.trit.abs().float().mean()
    assert 0.5 < kept < 0.8
    torch.testing.assert_close(twice.scale, once.scale * kept, rtol=1e-3, atol=0, check_dtype=False)


@settings(deadline=None)
@given(weights(), groups)
def test_there_are_at_most_three_values_a_group(weight: Tensor, group: Group):
    quantized = TernaryQuantizer(group=group).fake_quantize(weight)
    rows = quantized.flatten(-2) if group == "tensor" else quantized
    width = rows.shape[-1] if isinstance(group, str) else group
    for unit in (part for row in rows.reshape(-1, rows.shape[-1]).unbind() for part in row.split(width)):
        assert len(unit.unique()) <= 3
        assert len(unit.abs().unique()) <= 2


def test_zeros_stay_zeros_and_the_scale_its_floor():
    stored = ternarize(torch.zeros(2, 3, 4))
    assert not stored.trit.any()
    assert torch.equal(stored.scale, torch.full((2, 1, 1), SMALLEST_SCALE, dtype=torch.float16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_divergence_stays_visible_in_its_matrix_and_only_there(bad: float):
    weight = torch.randn(2, 3, 4)
    weight[1, 2, 3] = bad
    quantized = TernaryQuantizer().fake_quantize(weight)
    assert not quantized[1].isfinite().any()
    assert quantized[0].isfinite().all()


def test_the_weight_is_not_changed():
    weight = torch.randn(3, 4)
    before = weight.clone()
    TernaryQuantizer().fake_quantize(weight)
    assert torch.equal(weight, before)


def test_it_is_captured_whole_by_torch_compile():
    quantizer = TernaryQuantizer()
    weight = torch.randn(4, 6, requires_grad=True)
    compiled = torch.compile(quantizer.fake_quantize, backend="eager", fullgraph=True)
    quantized = compiled(weight)
    quantized.sum().backward()
    assert torch.equal(quantized, quantizer.fake_quantize(weight))
    assert torch.equal(weight.grad, torch.ones_like(weight))  # pyright: ignore[reportArgumentType]


def test_a_vector_has_no_packed_size_and_no_grid():
    with pytest.raises(ProblemError, match="not a matrix"):
        TernaryQuantizer().packed_bytes((5,))
    with pytest.raises(ValueError, match="a matrix"):
        TernaryQuantizer().fake_quantize(torch.zeros(5))


def test_an_unknown_group_is_an_error():
    with pytest.raises(ValueError, match="unknown group 'block'"):
        TernaryQuantizer(group="block")  # pyright: ignore[reportArgumentType]
