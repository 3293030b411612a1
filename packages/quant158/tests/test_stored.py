"""What is packed is read back as the weight of the forward pass, by numpy alone, and nothing else is read."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from penstock.hooks.contracts import PackedFormat, ParameterRole
from penstock.hooks.problems import ProblemError
from penstock.quant158.stored import unpacked
from penstock.quant158.ternary import Group, TernaryQuantizer

SHAPES = [(1, 1), (1, 5), (3, 7), (4, 256), (2, 5, 251), (1, 1, 6), (2, 2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("group", ["tensor", "row"])
def test_the_weight_of_the_forward_pass_comes_back_bit_for_bit(shape: tuple[int, ...], group: Group):
    quantizer = TernaryQuantizer(group=group)
    assert isinstance(quantizer, PackedFormat)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = quantizer.site(shape, ParameterRole.MATRIX)(weight).numpy()
    arrays = quantizer.pack(weight)
    assert quantizer.unpack(arrays, shape).tobytes() == expected.tobytes()
    assert sum(array.nbytes for array in arrays.values()) == quantizer.packed_bytes(shape)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float):
    weight = torch.ones(2, 3)
    weight[1, 1] = value
    with pytest.raises(ProblemError, match=r"layers\.0\.up"):
        TernaryQuantizer().pack(weight, name="layers.0.up")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", ["tensor", "row"])
@pytest.mark.parametrize("size", [1e-7, 0.02, 300.0])
def test_the_weight_of_a_forward_pass_in_half_precision_comes_back_bit_for_bit(
    dtype: torch.dtype, group: Group, size: float
):
    quantizer = TernaryQuantizer(group=group)
    weight = (torch.randn(6, 33, generator=torch.Generator().manual_seed(0)) * size).to(dtype)
    expected = quantizer.site((6, 33), ParameterRole.MATRIX)(weight)
    assert expected.dtype == dtype
    found = torch.from_numpy(quantizer.unpack(quantizer.pack(weight), (6, 33)))
    assert torch.equal(found, expected.float())
    assert torch.equal(found.to(dtype), expected)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 4, 7), (2, 0, 7)], ids=str)
@pytest.mark.parametrize("group", ["tensor", "row"])
def test_a_weight_without_values_comes_back(shape: tuple[int, ...], group: Group):
    quantizer = TernaryQuantizer(group=group)
    arrays = quantizer.pack(torch.zeros(shape))
    assert quantizer.unpack(arrays, shape).shape == shape
    assert sum(array.nbytes for array in arrays.values()) == quantizer.packed_bytes(shape)


def test_finite_weights_whose_sum_is_not_are_refused_for_what_they_are():
    weight = torch.full((4, 4), 3e38)
    with pytest.raises(ProblemError, match=r"'up' has values of up to 3e\+38, and the sum of a matrix exceeds"):
        TernaryQuantizer().pack(weight, name="up")


@pytest.mark.parametrize("weight", [torch.ones(2, 3, dtype=torch.int64), torch.ones(3)])
def test_what_is_no_matrix_of_floating_point_numbers_is_refused_by_name(weight: torch.Tensor):
    with pytest.raises(ProblemError, match=r"'layers\.0\.up' is .* not a floating-point matrix"):
        TernaryQuantizer().pack(weight, name="layers.0.up")


def test_arrays_of_another_weight_are_refused():
    arrays = TernaryQuantizer().pack(torch.randn(4, 12))
    codes, scale = arrays["codes"], arrays["scale"]
    refused = {
        "longer rows": (arrays, (4, 20), "do not fit a weight"),
        "more rows": (arrays, (5, 12), "do not fit a weight"),
        "another type": ({**arrays, "scale": scale.astype(np.float64)}, (4, 12), "do not fit a weight"),
        "no matrix": (arrays, (12,), "is not a matrix"),
        "no codes": ({**arrays, "codes": np.full_like(codes, 255)}, (4, 12), "codes of up to 255"),
        "no array of codes": ({"scale": scale}, (4, 12), "codes not found among scale"),
        "no arrays": ({}, (4, 12), "codes and scale not found among no arrays"),
        **{
            f"a scale of {value}": ({**arrays, "scale": np.full_like(scale, value)}, (4, 12), "a scale is not")
            for value in (float("nan"), float("inf"), 0.0, -1.0)
        },
    }
    for given, shape, message in refused.values():
        with pytest.raises(ProblemError, match=message):
            unpacked(given, shape)


def test_reading_needs_no_torch():
    code = "import sys, penstock.quant158.stored; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
