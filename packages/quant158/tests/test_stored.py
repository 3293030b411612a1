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


def test_arrays_of_another_weight_are_refused():
    arrays = TernaryQuantizer().pack(torch.randn(4, 12))
    codes = arrays["codes"]
    other = {
        "longer rows": (arrays, (4, 20)),
        "more rows": (arrays, (5, 12)),
        "no codes": ({**arrays, "codes": np.full_like(codes, 255)}, (4, 12)),
        "another type": ({**arrays, "scale": arrays["scale"].astype(np.float64)}, (4, 12)),
    }
    for given, shape in other.values():
        with pytest.raises(ProblemError, match="do not fit a weight"):
            unpacked(given, shape)


def test_reading_needs_no_torch():
    code = "import sys, penstock.quant158.stored; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
