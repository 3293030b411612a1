# pyright: basic
"""Laws of quantizers that write and read the bytes of their format: `PackedFormat`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws.quantized import MATRIX, built_with_sites, drawn_weight, same_draws, site_of
from penstock.hooks.problems import ProblemError

QUANTIZER, PACKABLE, ANY_WIDTH = "quantizer", "packable", "any-width"
FACTORS = (1.0, 0.0, 1e-5, 1e3)  # of weights as they are trained, of projections at their start, and of extremes
SHAPES = (MATRIX, (1, 256), (7, 512), (3, *MATRIX), (1, 1, 256))


@law(QUANTIZER, capability=PACKABLE)
def what_is_packed_is_the_weight_of_the_forward_pass(subject: Subject) -> None:
    """`unpack(pack(w))` equals the module's output for `w`, bit for bit in fp32.

    Pack the codes and scales of the forward pass, and multiply them in the same order and precision.
    """
    quantizer = built_with_sites(subject)
    for shape in SHAPES:
        for factor in FACTORS:
            _expect_packed_as_used(quantizer, drawn_weight(*shape) * factor)


@law(QUANTIZER, needs=(what_is_packed_is_the_weight_of_the_forward_pass,), capability=ANY_WIDTH)
def rows_of_any_width_are_packed(subject: Subject) -> None:
    """Rows of 1, 7, 65 and 251 numbers are packed too, and come back bit for bit.

    Fill up the last byte and the last group of a row. A format of whole blocks does not declare `any-width`.
    """
    quantizer = built_with_sites(subject)
    for shape in ((1, 1), (3, 7), (1, 2, 65), (2, 5, 251)):
        _expect_packed_as_used(quantizer, drawn_weight(*shape))


def _expect_packed_as_used(quantizer: Any, weight: Tensor) -> None:
    """What is unpacked is what the module returns."""
    shape = tuple(weight.shape)
    site = site_of(quantizer, shape)
    with torch.no_grad(), same_draws():
        expected = site(weight).numpy()
    with same_draws():
        found = quantizer.unpack(quantizer.pack(weight, site), shape)
    expect(found.shape == shape, f"a weight of shape {shape} was unpacked as {found.shape}")
    gap = float(np.abs(found.astype(np.float64) - expected).max())
    what = f"of shape {shape} and magnitude {float(weight.abs().max()):.3g}, they differ by up to {gap:.3g}"
    expect(np.array_equal(found, expected), what)


@law(QUANTIZER, capability=PACKABLE)
def packed_arrays_take_the_packed_bytes(subject: Subject) -> None:
    """`pack` returns numpy arrays whose total size is `packed_bytes`.

    Include scales and padding in both.
    """
    quantizer = built_with_sites(subject)
    for shape in SHAPES:
        arrays = quantizer.pack(drawn_weight(*shape), site_of(quantizer, shape))
        wrong = [name for name, each in arrays.items() if not isinstance(each, np.ndarray)]
        expect(not wrong, f"no numpy arrays: {', '.join(wrong)}")
        size, said = sum(each.nbytes for each in arrays.values()), quantizer.packed_bytes(shape)
        expect(size == said, f"a weight of shape {shape} takes {size} bytes, and packed_bytes says {said}")


@law(QUANTIZER, capability=PACKABLE)
def a_weight_that_is_not_finite_is_refused_by_name(subject: Subject) -> None:
    """For a weight with NaN or infinity, `pack` raises a `ProblemError` that names the weight.

    Check the weight before computing codes, which may hide it, and put `name` in the problem.
    """
    quantizer = built_with_sites(subject)
    for value in (float("nan"), float("inf")):
        weight = drawn_weight(*MATRIX)
        weight[3, 5] = value
        try:
            quantizer.pack(weight, site_of(quantizer, MATRIX), name="layers.1.up_proj")
        except ProblemError as error:
            expect("layers.1.up_proj" in str(error), f"the problem does not name the weight: {error}")
        else:
            expect(False, f"a weight with {value} was packed")


@law(QUANTIZER, capability=PACKABLE)
def the_bytes_have_a_name(subject: Subject) -> None:
    """`format` is a name of the byte format, without spaces.

    It is written to file headers: change it when the bytes change.
    """
    name = built_with_sites(subject).format
    expect(isinstance(name, str) and name and " " not in name, f"format is {name!r}")


LAWS = laws_in(globals())
