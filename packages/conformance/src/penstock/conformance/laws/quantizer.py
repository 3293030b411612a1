# pyright: basic
"""Laws of quantizers of every contract: [..., out, in] to the same shape on the grid of a low-precision format.

Rows are 256 long throughout, which the block sizes of the common formats divide.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws import quantizer_packing, quantizer_sites
from penstock.conformance.laws.quantized import MATRIX, drawn_weight, quantized, same_draws, transform_of
from penstock.conformance.parts import random_state
from penstock.hooks.contracts import ParameterRole

QUANTIZER = "quantizer"


@law(QUANTIZER)
def the_result_has_the_shape_and_dtype_of_the_weight(subject: Subject) -> None:
    """A matrix or a stack of matrices comes back with its shape, dtype and device.

    Compute in fp32 if need be, and cast the result back; reshape what was reshaped.
    """
    quantizer = subject.build()
    for shape in (MATRIX, (3, *MATRIX), (2, 3, *MATRIX)):
        weight = drawn_weight(*shape)
        result = quantized(subject, quantizer, weight)
        same = (result.shape, result.dtype, result.device) == (weight.shape, weight.dtype, weight.device)
        expect(same, f"{_form(weight)} came back as {_form(result)}")


WELL_FORMED = (the_result_has_the_shape_and_dtype_of_the_weight,)


@law(QUANTIZER, needs=WELL_FORMED)
def bf16_weights_are_quantized(subject: Subject) -> None:
    """A bf16 weight gives a finite bf16 result.

    Cast to fp32 for the arithmetic, and back to bf16 at the end.
    """
    weight = drawn_weight(*MATRIX).bfloat16()
    result = quantized(subject, subject.build(), weight)
    expect(_form(result) == _form(weight), f"{_form(weight)} came back as {_form(result)}")
    expect(result.isfinite().all(), "a bf16 weight has a result that is not finite")


@law(QUANTIZER, needs=WELL_FORMED)
def the_weight_itself_stays(subject: Subject) -> None:
    """The given weight is not changed.

    It is the master weight that is trained: round a copy, not in place.
    """
    weight = drawn_weight(*MATRIX)
    before = weight.clone()
    quantized(subject, subject.build(), weight)
    expect(torch.equal(weight, before), "the weight has other values after fake_quantize")


@law(QUANTIZER, needs=WELL_FORMED)
def a_matrix_of_zeros_stays_finite(subject: Subject) -> None:
    """A matrix of zeros has a finite result and a finite gradient.

    Projections start at zero: give the scale a floor before dividing by it.
    """
    weight = torch.zeros(MATRIX, requires_grad=True)
    result = quantized(subject, subject.build(), weight)
    expect(result.isfinite().all(), "a matrix of zeros has a result that is not finite")
    if result.requires_grad:
        result.sum().backward()
        expect(weight.grad is None or weight.grad.isfinite().all(), "the gradient at zero is not finite")


@law(QUANTIZER, needs=WELL_FORMED)
def extreme_weights_stay_finite(subject: Subject) -> None:
    """Magnitudes of 1e30 and 1e-30, and a matrix with one outlier, have finite results.

    Divide before multiplying, avoid squares, and give the scale a floor.
    """
    quantizer = subject.build()
    outlier = drawn_weight(*MATRIX)
    outlier[3, 5] = 1e6
    cases = {"of 1e30": _signs(1e30), "of 1e-30": _signs(1e-30), "with one outlier": outlier}
    for name, weight in cases.items():
        expect(
            quantized(subject, quantizer, weight).isfinite().all(), f"a matrix {name} has a result that is not finite"
        )


@law(QUANTIZER, needs=WELL_FORMED)
def the_result_resembles_the_weight(subject: Subject) -> None:
    """The cosine between the result and the weight is above 0.5.

    The sign alone reaches 0.8 on normal weights: check for mixed-up codes and for scales of the wrong group.
    """
    weight = drawn_weight(64, 256)
    with same_draws():
        result = quantized(subject, subject.build(), weight)
    cosine = torch.nn.functional.cosine_similarity(weight.flatten(), result.flatten(), dim=0).item()
    expect(cosine > 0.5, f"the cosine of weight and result is {cosine:.3f}")


@law(QUANTIZER, needs=WELL_FORMED)
def a_weight_that_moves_a_little_keeps_its_level(subject: Subject) -> None:
    """The result lies on a grid: a relative change of 1e-4 in a weight does not change its level.

    Return the dequantized values in the forward pass, not the weight; only the gradient passes straight through.
    """
    quantizer, weight = subject.build(), drawn_weight(*MATRIX)
    with same_draws():
        before = quantized(subject, quantizer, weight)
    moved = 0
    positions = [(row, 16 * row + 3) for row in range(MATRIX[0])]
    for position in positions:
        nudged = weight.clone()
        nudged[position] *= 1 + 1e-4
        with same_draws():
            after = quantized(subject, quantizer, nudged)
        moved += bool((after[position] - before[position]).abs() > (nudged[position] - weight[position]).abs() / 10)
    expect(moved <= len(positions) // 2, f"{moved} of {len(positions)} weights moved with their full-precision value")


@law(QUANTIZER, needs=WELL_FORMED)
def the_gradient_reaches_the_weight(subject: Subject) -> None:
    """The weight gets a finite gradient, and at least half of it is not zero.

    Rounding has gradient 0: pass it straight through with `rounded.detach() + (weight - weight.detach())`.
    """
    weight = drawn_weight(*MATRIX).requires_grad_()
    result = quantized(subject, subject.build(), weight)
    expect(result.requires_grad, "the result carries no gradient")
    result.backward(drawn_weight(*MATRIX, seed=1))
    gradient = weight.grad
    expect(gradient is not None, "the weight got no gradient")
    assert gradient is not None
    expect(gradient.isfinite().all(), "the gradient is not finite")
    share = (gradient != 0).float().mean().item()
    expect(share >= 0.5, f"{share:.0%} of the gradient is not zero")


@law(QUANTIZER, needs=(the_gradient_reaches_the_weight,), capability="identity-gradient")
def the_gradient_passes_unchanged(subject: Subject) -> None:
    """The gradient of the weight equals the gradient of the result.

    Do not declare `identity-gradient` if the gradient is clipped or scaled.
    """
    weight, upstream = drawn_weight(*MATRIX).requires_grad_(), drawn_weight(*MATRIX, seed=1)
    quantized(subject, subject.build(), weight).backward(upstream)
    assert weight.grad is not None
    expect(torch.equal(weight.grad, upstream), f"they differ by up to {_gap(weight.grad, upstream):.3g}")


@law(QUANTIZER, needs=WELL_FORMED, capability="deterministic")
def equal_weights_give_equal_results(subject: Subject) -> None:
    """Equal weights give equal results bit for bit, without drawing from global generators.

    A quantizer with stochastic rounding does not declare `deterministic`.
    """
    quantizer, weight = subject.build(), drawn_weight(*MATRIX)
    before = random_state()
    first = quantized(subject, quantizer, weight)
    expect(random_state() == before, "a global random generator was drawn from")
    expect(torch.equal(first, quantized(subject, quantizer, weight)), "the second result is another one")


@law(QUANTIZER, needs=WELL_FORMED)
def leading_dimensions_are_independent(subject: Subject) -> None:
    """A stack of matrices is quantized like a loop over its matrices.

    Experts are stacked: compute statistics over at most the last two dimensions.
    """
    if not subject.claims("deterministic"):
        raise NotApplicable("the quantizer rounds at random")
    quantizer = subject.build()
    stack = drawn_weight(2, 3, *MATRIX) * torch.tensor([1.0, 0.01, 100.0])[:, None, None]
    result = quantized(subject, quantizer, stack)
    for index in ((i, j) for i in range(2) for j in range(3)):
        alone = quantized(subject, quantizer, stack[index])
        same = torch.allclose(result[index], alone, rtol=1e-5, atol=0)
        expect(same, f"matrix {index} alone differs by up to {_gap(result[index], alone):.3g}")


@law(QUANTIZER, needs=WELL_FORMED, capability="idempotent")
def a_quantized_weight_stays(subject: Subject) -> None:
    """Quantizing twice changes nothing.

    This holds if the scale can be recovered from the result (its maximum), and fails if it cannot (its mean).
    """
    quantizer = subject.build()
    with same_draws():
        once = quantized(subject, quantizer, drawn_weight(*MATRIX))
    with same_draws():
        twice = quantized(subject, quantizer, once)
    expect(torch.allclose(twice, once, rtol=1e-5, atol=0), f"they differ by up to {_gap(twice, once):.3g}")


@law(QUANTIZER, needs=WELL_FORMED, capability="odd")
def the_negative_is_quantized_to_the_negative(subject: Subject) -> None:
    """q(-w) = -q(w).

    Do not declare `odd` with half-up rounding, zero points or asymmetric levels.
    """
    quantizer, weight = subject.build(), drawn_weight(*MATRIX)
    with same_draws():
        result = quantized(subject, quantizer, weight)
    with same_draws():
        negative = quantized(subject, quantizer, -weight)
    expect(torch.equal(negative, -result), f"they differ by up to {_gap(negative, -result):.3g}")


@law(QUANTIZER, needs=WELL_FORMED, capability="scale-equivariant")
def the_scale_of_a_weight_is_kept(subject: Subject) -> None:
    """q(c w) = c q(w) for c = 1/4, 2 and 16.

    Do not declare `scale-equivariant` with a fixed grid or rounded scales.
    """
    quantizer, weight = subject.build(), drawn_weight(*MATRIX)
    with same_draws():
        result = quantized(subject, quantizer, weight)
    for factor in (0.25, 2.0, 16.0):
        with same_draws():
            scaled = quantized(subject, quantizer, factor * weight)
        expect(torch.equal(scaled, factor * result), f"times {factor} differs by {_gap(scaled, factor * result):.3g}")


@law(QUANTIZER, needs=(the_gradient_reaches_the_weight,), capability="compilable")
def the_compiler_takes_it_whole(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` gives the same values and the same gradient.

    Do not let tensor values decide what is computed (`if tensor.any():`).
    """
    from torch._dynamo.eval_frame import is_dynamo_supported  # takes seconds: imported by this law alone

    if not is_dynamo_supported():
        raise NotApplicable("torch.compile does not work here")
    quantizer = subject.build()
    torch._dynamo.reset()
    transform = transform_of(subject, quantizer, MATRIX)
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    found: list[tuple[Tensor, Tensor | None]] = []
    for function in (transform, compiled):
        weight = drawn_weight(*MATRIX).requires_grad_()
        with same_draws():
            result = function(weight)
        result.backward(drawn_weight(*MATRIX, seed=1))
        found.append((result.detach(), weight.grad))
    (plain, gradient), (result, of_compiled) = found
    expect(torch.allclose(result, plain, rtol=1e-5, atol=0), f"values differ by up to {_gap(result, plain):.3g}")
    assert gradient is not None
    expect(of_compiled is not None, "compiled, it passes no gradient")
    assert of_compiled is not None
    same = torch.allclose(of_compiled, gradient, rtol=1e-5, atol=1e-8)
    expect(same, f"gradients differ by up to {_gap(of_compiled, gradient):.3g}")


@law(QUANTIZER, needs=WELL_FORMED)
def a_copy_is_the_same_quantizer(subject: Subject) -> None:
    """A deep or pickled copy gives the same results.

    Copied models contain quantizers: store plain values as attributes, not lambdas or open files.
    """
    quantizer, weight = subject.build(), drawn_weight(*MATRIX)
    with same_draws():
        expected = quantized(subject, quantizer, weight)
    for name, other in (("deep", copy.deepcopy(quantizer)), ("pickled", pickle.loads(pickle.dumps(quantizer)))):
        with same_draws():
            result = quantized(subject, other, weight)
        expect(torch.equal(result, expected), f"the {name} copy gives another result")


@law(QUANTIZER)
def packed_bytes_are_a_positive_number(subject: Subject) -> None:
    """`packed_bytes` is a positive integer.

    Round up to whole bytes and return an int.
    """
    quantizer = subject.build()
    for shape in (MATRIX, (3, *MATRIX), (64, 512)):
        packed = quantizer.packed_bytes(shape)
        expect(type(packed) is int and packed > 0, f"packed_bytes({shape}) is {packed!r}")


COUNTED = (packed_bytes_are_a_positive_number,)


@law(QUANTIZER, needs=COUNTED)
def a_larger_weight_takes_more_bytes(subject: Subject) -> None:
    """More rows or longer rows take more bytes.

    Count every dimension of the shape.
    """
    quantizer = subject.build()
    for small, large in pairwise([(16, 256), (32, 256), (64, 256), (64, 512)]):
        sizes = (quantizer.packed_bytes(small), quantizer.packed_bytes(large))
        expect(sizes[0] < sizes[1], f"{small} takes {sizes[0]} bytes, and {large} takes {sizes[1]}")


@law(QUANTIZER, needs=COUNTED)
def a_stored_weight_is_no_larger_than_in_bf16(subject: Subject) -> None:
    """A packed weight with its scales takes at most the two bytes per number of bf16.

    Return bytes, not bits, and count the packed codes, not the simulated weight.
    """
    packed = subject.build().packed_bytes((64, 256))
    expect(packed <= 2 * 64 * 256, f"64 x 256 weights take {packed} bytes, and {2 * 64 * 256} in bf16")


@law(QUANTIZER, needs=COUNTED)
def a_stack_takes_the_bytes_of_its_matrices(subject: Subject) -> None:
    """E stacked matrices take E times the bytes of one matrix; each may save the byte that it fills up alone.

    Leading dimensions are independent matrices, each with its own scales: count those too.
    """
    quantizer = subject.build()
    one = quantizer.packed_bytes(MATRIX)
    for leading in ((3,), (2, 3)):
        packed = quantizer.packed_bytes((*leading, *MATRIX))
        matrices = math.prod(leading)
        expect(
            matrices * (one - 1) < packed <= matrices * one, f"{leading} matrices of {one} bytes take {packed} bytes"
        )


@law(QUANTIZER, needs=(*WELL_FORMED, packed_bytes_are_a_positive_number))
def the_codes_fit_into_the_packed_bytes(subject: Subject) -> None:
    """The stored bytes have room for the information of the codes.

    The entropy of the levels in blocks of 16 weights is a lower bound: fewer bytes cannot represent the weights.
    """
    quantizer = subject.build()
    needed = sum(
        16 * _entropy(block) / 8 for block in quantized(subject, quantizer, drawn_weight(*MATRIX)).reshape(-1, 16)
    )
    packed = quantizer.packed_bytes(MATRIX)
    expect(needed <= packed, f"{needed:.0f} bytes of information are said to take {packed}")


@law(QUANTIZER)
def roles_are_a_set_of_roles(subject: Subject) -> None:
    """`roles` is a non-empty frozenset of `ParameterRole`s.

    Convert the setting: `frozenset(ParameterRole(role) for role in roles)`.
    """
    roles = subject.build().roles
    expect(isinstance(roles, frozenset) and roles, f"roles is {roles!r}")
    expect(all(isinstance(role, ParameterRole) for role in roles), f"roles has more than roles: {roles!r}")


@law(QUANTIZER, needs=(roles_are_a_set_of_roles,))
def vectors_are_left_out(subject: Subject) -> None:
    """Norms and biases are not among the roles.

    They are vectors, about a thousandth of the parameters, and the format is for matrices.
    """
    wrong = _roles(subject.build()) & {ParameterRole.NORM, ParameterRole.BIAS}
    expect(not wrong, f"roles has {', '.join(sorted(wrong))}")


@law(QUANTIZER, needs=(roles_are_a_set_of_roles,), capability="routers")
def routers_are_among_the_roles(subject: Subject) -> None:
    """The gates of routers are among the roles.

    Low precision changes the order of experts: declare `routers` only if that is intended, and leave the role out
    otherwise.
    """
    expect(ParameterRole.ROUTER in _roles(subject.build()), "roles has no router")


def _roles(quantizer: Any) -> frozenset[ParameterRole]:
    return quantizer.roles


def _signs(magnitude: float) -> Tensor:
    return drawn_weight(*MATRIX).sign() * magnitude


def _entropy(values: Tensor) -> float:
    """Bits a value of the empirical distribution."""
    counts = Counter(values.tolist()).values()
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts)


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"


def _gap(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


LAWS = (*laws_in(globals()), *quantizer_sites.LAWS, *quantizer_packing.LAWS)
