"""Laws of 16-bit numbers, against Python's own rounding and the bits of fp32."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import PackedFormat, ParameterRole
from penstock.quant158.halves import Bf16Quantizer, Fp16Quantizer
from penstock.quant158.roles import STORED_ROLES, checked_half_roles
from penstock.quant158.values import BF16, FP16, FP32, LARGEST, VALUES, value_bytes, values_fault, widened

every_format = pytest.mark.parametrize("quantizer", [Fp16Quantizer(), Bf16Quantizer()], ids=["fp16", "bf16"])
SHAPES = [(1, 1), (3, 7), (4, 256), (2, 5, 251), (2, 2, 3, 4), (0, 5), (3, 0)]
SIZES = [0.02, 1.0, 1e-5, 1e-7, 1e-40, 1e4]


def drawn(shape: tuple[int, ...], size: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * size


def by_hand(format: str, value: float) -> float:
    if format == FP16:
        return struct.unpack("<e", struct.pack("<e", value))[0]
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    rounded = bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000  # to nearest, ties to even
    return struct.unpack("<f", struct.pack("<I", rounded))[0]


@every_format
@pytest.mark.parametrize("size", SIZES)
def test_values_are_the_nearest_numbers_of_16_bits(quantizer: PackedFormat, size: float):
    weight = drawn((6, 33), size)
    expected = [[by_hand(quantizer.format, value) for value in row] for row in weight.tolist()]
    assert quantizer.site((6, 33), ParameterRole.MATRIX)(weight).tolist() == expected


@every_format
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_weight_of_the_forward_pass_comes_back_bit_for_bit(quantizer: PackedFormat, shape: tuple[int, ...]):
    for size in SIZES:
        weight = drawn(shape, size)
        weight.view(-1)[:1] = -0.0
        arrays = quantizer.pack(weight)
        expected = quantizer.site(shape, ParameterRole.MATRIX)(weight).numpy()
        assert quantizer.unpack(arrays, shape).tobytes() == expected.tobytes()
        assert arrays["values"].nbytes == quantizer.packed_bytes(shape) == value_bytes(quantizer.format, shape)


@every_format
def test_a_transposed_weight_is_packed_as_its_copy(quantizer: PackedFormat):
    weight = drawn((5, 9)).T
    assert quantizer.pack(weight)["values"].tobytes() == quantizer.pack(weight.clone())["values"].tobytes()


@every_format
def test_the_gradient_passes_unchanged(quantizer: PackedFormat):
    weight, upstream = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    quantizer.site((3, 4), ParameterRole.MATRIX)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)  # pyright: ignore[reportArgumentType]


@every_format
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_stays_visible_and_is_refused_by_name(quantizer: PackedFormat, value: float):
    weight = torch.ones(2, 3)
    weight[1, 1] = value
    assert not quantizer.site((2, 3), ParameterRole.MATRIX)(weight)[1, 1].isfinite()
    with pytest.raises(ProblemError, match=r"'layers\.0\.up' has NaN or infinite"):
        quantizer.pack(weight, name="layers.0.up")


@every_format
def test_a_weight_beyond_the_range_is_refused_by_name(quantizer: Any):
    largest = LARGEST[quantizer.format]
    site = quantizer.site((1, 2), ParameterRole.HEAD)
    held = torch.tensor([[largest, -largest]])
    assert site.fault(held) is None
    assert np.array_equal(quantizer.unpack(quantizer.pack(held), (1, 2)), held.numpy())
    beyond = held * 1.001
    assert site(beyond).tolist() == held.tolist()
    assert f"and {quantizer.format} ends at" in site.fault(beyond)
    with pytest.raises(ProblemError, match=r"'lm_head\.weight' has a value of magnitude \S+, and .* store it as bf16"):
        quantizer.pack(beyond, name="lm_head.weight")


@every_format
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda values: {}, "values not found among no arrays"),
        (lambda values: {"values": values[:1]}, "values of a weight of shape"),
        (lambda values: {"values": values.astype(np.float32)}, "is float32"),
        (lambda values: {"values": np.full_like(values.view(np.uint16), 0xFFFF).view(values.dtype)}, "NaN or infinite"),
    ],
)
def test_arrays_of_another_weight_are_refused(quantizer: PackedFormat, changed: Any, message: str):
    arrays = changed(quantizer.pack(torch.ones(3, 5))["values"])
    with pytest.raises(ProblemError, match=message):
        quantizer.unpack(arrays, (3, 5))


def test_every_number_of_bf16_is_the_upper_half_of_an_fp32_number():
    every = np.arange(1 << 16, dtype=np.uint16)
    expected = torch.from_numpy(every.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert widened(BF16, every).tobytes() == expected.tobytes()
    finite = [values_fault(BF16, every[n : n + 1]) is None for n in range(0, 1 << 16, 97)]
    assert finite == np.isfinite(expected[::97]).tolist()


def test_fp32_is_read_without_a_copy():
    values = np.ones((2, 3), VALUES[FP32])
    assert widened(FP32, values) is values


@pytest.mark.parametrize("role", list(ParameterRole))
def test_every_matrix_but_a_router_may_be_of_16_bits(role: ParameterRole):
    if role in STORED_ROLES:
        assert checked_half_roles([role]) == {role}
    else:
        with pytest.raises(ValueError, match=rf"role '{role}' cannot be stored in 16 bits: .{{20,}}; allowed: emb"):
            checked_half_roles([role])


@pytest.mark.parametrize("name", [FP16, BF16])
def test_the_config_chooses_the_roles(name: str):
    built = Registry.discover().build("quantizer", {"use": name, "roles": ["embedding"]})
    assert (built.format, built.roles) == (name, {ParameterRole.EMBEDDING})
    assert Registry.discover().build("quantizer", name).roles == set(STORED_ROLES)


def test_reading_needs_no_torch():
    code = "import sys, penstock.quant158.values; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
