"""What is packed is read back as the weight of the forward pass, by numpy alone, and nothing else is read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.hooks.contracts import PackedFormat, ParameterRole
from penstock.hooks.problems import ProblemError
from penstock.quant158.integers import Int4Quantizer, Int8Quantizer
from penstock.quant158.stored import FORMATS, GROUPS, code_bytes, packed_bytes, scale_shape, unpacked
from penstock.quant158.ternary import TernaryQuantizer

# One row, one column, one expert, odd widths whose last group is short, and dimensions without values.
SHAPES = [
    *((1, 1), (1, 5), (3, 7), (4, 256), (2, 5, 251), (1, 1, 6), (2, 2, 3, 4), (1, 3, 300), (2, 65), (5, 129)),
    *((0, 5), (3, 0), (0, 4, 7), (2, 0, 7)),
]
BUILDERS: dict[str, Callable[[], PackedFormat]] = {
    **{f"ternary-{group}": lambda group=group: TernaryQuantizer(group=group) for group in GROUPS},
    "int8": Int8Quantizer,
    "int4": Int4Quantizer,
}
every_quantizer = pytest.mark.parametrize("quantizer", [build() for build in BUILDERS.values()], ids=list(BUILDERS))


def outlier(weight: Tensor) -> Tensor:
    weight.view(-1)[:1] = 6e4
    return weight


ADVERSARIAL: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda weight: weight * 0.02,
    "zeros": torch.zeros_like,
    "subnormal": lambda weight: weight * 1e-40,
    "tiny": lambda weight: weight * 1e-7,
    "at the threshold": lambda weight: (weight * 4).round() / 8,
    "large": lambda weight: weight * 1e4,
    "one outlier": outlier,
    "rows of unlike size": lambda weight: (
        weight * torch.logspace(-8, 3, weight.shape[-2]).unsqueeze(-1) if weight.shape[-2] else weight
    ),
}


@every_quantizer
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_weight_of_the_forward_pass_comes_back_bit_for_bit(quantizer: PackedFormat, shape: tuple[int, ...]):
    assert isinstance(quantizer, PackedFormat)
    for name, drawn in ADVERSARIAL.items():
        weight = drawn(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        expected = quantizer.site(shape, min(quantizer.roles))(weight).numpy()
        arrays = quantizer.pack(weight)
        assert quantizer.unpack(arrays, shape).tobytes() == expected.tobytes(), name
        assert arrays["codes"].shape == (code_bytes(quantizer.format, shape),)
        assert arrays["scale"].shape == scale_shape(quantizer.format, shape)
        assert sum(array.nbytes for array in arrays.values()) == quantizer.packed_bytes(shape)


@every_quantizer
def test_a_stack_is_packed_alike_however_it_lies_in_memory(quantizer: PackedFormat):
    fused = torch.randn(3, 10, 70, generator=torch.Generator().manual_seed(0))
    part = fused[:, 4:, :]
    assert not part.is_contiguous()
    for found, expected in zip(quantizer.pack(part).values(), quantizer.pack(part.clone()).values(), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_a_matrix_at_group_128_takes_at_most_1_73_bits_a_weight():
    for width in (128, 256, 320, 384, 512, 768, 1024):
        bits = 8 * packed_bytes("ternary-base3-g128", (768, width)) / (768 * width)
        assert bits <= (1.73 if width % 128 == 0 else 1.76)


@every_quantizer
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(quantizer: PackedFormat, value: float):
    weight = torch.ones(2, 3)
    weight[1, 1] = value
    with pytest.raises(ProblemError, match=r"layers\.0\.up"):
        quantizer.pack(weight, name="layers.0.up")


@every_quantizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-7, 0.02, 300.0])
def test_a_forward_pass_in_half_precision_computes_with_the_rounded_weight(
    quantizer: PackedFormat, dtype: torch.dtype, size: float
):
    weight = (torch.randn(6, 133, generator=torch.Generator().manual_seed(0)) * size).to(dtype)
    expected = quantizer.site((6, 133), min(quantizer.roles))(weight)
    assert expected.dtype == dtype
    assert torch.equal(torch.from_numpy(quantizer.unpack(quantizer.pack(weight), (6, 133))).to(dtype), expected)


@every_quantizer
def test_a_scale_above_the_range_of_fp16_is_refused_for_what_it_is(quantizer: PackedFormat):
    with pytest.raises(ProblemError, match=r"'up' has a scale of \S+, and fp16 ends at 65504"):
        quantizer.pack(torch.full((4, 4), 3e38), name="up")


@every_quantizer
@pytest.mark.parametrize("weight", [torch.ones(2, 3, dtype=torch.int64), torch.ones(3)])
def test_what_is_no_matrix_of_floating_point_numbers_is_refused_by_name(quantizer: PackedFormat, weight: Tensor):
    with pytest.raises(ProblemError, match=r"'layers\.0\.up' is .* not a floating-point matrix"):
        quantizer.pack(weight, name="layers.0.up")


def refused_arrays() -> dict[str, tuple[str, dict[str, Any], tuple[int, ...], str]]:
    ternary, eight, four = "ternary-base3-g64", "int8-rows", "int4-rows"
    weight = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    trits = dict(TernaryQuantizer(group=64).pack(weight))
    bytes8, nibbles = dict(Int8Quantizer().pack(weight[:3, :11])), dict(Int4Quantizer().pack(weight[:3, :11]))
    codes, scale = trits["codes"], trits["scale"]
    return {
        "longer rows": (ternary, trits, (4, 20), "codes of a weight"),
        "more groups": (ternary, trits, (2, 24), "scale of a weight"),
        "another type": (ternary, {**trits, "scale": scale.astype(np.float32)}, (4, 12), "not float16"),
        "no matrix": (ternary, trits, (12,), "is not a matrix"),
        "another format": ("ternary-base3-g99", trits, (4, 12), "unknown format 'ternary-base3-g99'"),
        "no codes": (ternary, {**trits, "codes": np.full_like(codes, 255)}, (4, 12), "codes of up to 255"),
        "filled up": (ternary, {**trits, "codes": np.full_like(codes, 242)}, (4, 12), "more than the weight"),
        "no array of codes": (ternary, {"scale": scale}, (4, 12), "codes not found among scale"),
        "no arrays": (ternary, {}, (4, 12), "codes and scale not found among no arrays"),
        "-128": (eight, {**bytes8, "codes": np.full_like(bytes8["codes"], -128)}, (3, 11), "a code is -128"),
        "-8": (four, {**nibbles, "codes": np.zeros_like(nibbles["codes"])}, (3, 11), "a code is -8"),
        "half a byte": (four, {**nibbles, "codes": np.full_like(nibbles["codes"], 17)}, (3, 11), "more than the"),
        **{
            f"a scale of {value}": (ternary, {**trits, "scale": np.full_like(scale, value)}, (4, 12), "a scale is")
            for value in (float("nan"), float("inf"), 0.0, -1.0, 6e-5, 1e-6)
        },
    }


@pytest.mark.parametrize("case", refused_arrays().values(), ids=refused_arrays().keys())
def test_arrays_of_another_weight_are_refused(case: tuple[str, dict[str, Any], tuple[int, ...], str]):
    name, arrays, shape, message = case
    with pytest.raises(ProblemError, match=message):
        unpacked(name, arrays, shape)


def test_every_format_is_written_by_a_quantizer():
    assert {build().format for build in BUILDERS.values()} == FORMATS.keys()


def test_a_role_without_rows_of_its_own_is_served_too():
    assert Int8Quantizer().site((5, 3), ParameterRole.EMBEDDING)(torch.ones(5, 3)).shape == (5, 3)


def test_reading_needs_no_torch():
    code = "import sys, penstock.quant158.stored; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
