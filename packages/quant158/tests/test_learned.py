"""Laws of the learned threshold: the published gradients, computed one number at a time in fp64, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import ProblemError
from penstock.quant158.learned import LearnedSite, LearnedTernaryQuantizer
from penstock.quant158.ternary import TernaryQuantizer


def site_with(gains: list[float], shape: tuple[int, ...]) -> LearnedSite:
    site = LearnedTernaryQuantizer().site(shape, ParameterRole.MATRIX)
    assert isinstance(site, LearnedSite)
    with torch.no_grad():
        site.log_gain.copy_(torch.tensor(gains).view(site.log_gain.shape).log())
    return site


def quantized_row(row: list[float], clip: float) -> list[float]:
    """ParetoQ's stretched elastic quantizer at 1.58 bits: k = 3 levels, as its code clips (0.99, so that 1.5 rounds to
    one)."""
    return [clip * round(max(-0.99, min(0.99, value / clip)) * 1.5) / 1.5 for value in row]


def published_gradients(row: list[float], clip: float, upstream: list[float], count: int) -> tuple[list[float], float]:
    """Of the weights and of the clip; `count` is the number of weights of the matrix, and Q_P is 1."""
    inside = [abs(value / clip) < 1 for value in row]
    of_weights = [grad if within else 0.0 for grad, within in zip(upstream, inside, strict=True)]
    levels = [value / clip for value in quantized_row(row, clip)]
    each = [level - (w / clip if within else 0.0) for level, w, within in zip(levels, row, inside, strict=True)]
    return of_weights, math.fsum(a * b for a, b in zip(each, upstream, strict=True)) / math.sqrt(count * 1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (4, 64), (2, 3, 33)], ids=str)
def test_value_and_gradients_are_the_published_ones(shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(shape, generator=generator) * 0.05).requires_grad_()
    upstream = torch.randn(shape, generator=generator)
    gains = torch.rand(math.prod(shape[:-1]), generator=generator) + 0.5
    site = site_with(gains.tolist(), shape)
    result = site(weight)
    result.backward(upstream)
    assert weight.grad is not None
    assert site.log_gain.grad is not None
    gains = site.gain.detach().flatten()
    rows = [tensor.detach().double().reshape(-1, shape[-1]).tolist() for tensor in (weight, upstream, result)]
    for index, (row, grad, found) in enumerate(zip(*rows, strict=True)):
        mean = float(np.float32(math.fsum(map(abs, row)) / len(row)))
        clip = 1.5 * float(np.float16(np.float32(gains[index]) * np.float32(mean)))  # as training sees it
        np.testing.assert_allclose(found, quantized_row(row, clip), rtol=1e-6)
        of_weights, of_clip = published_gradients(row, clip, grad, shape[-1] * shape[-2])
        np.testing.assert_allclose(weight.grad.reshape(-1, shape[-1])[index], of_weights, rtol=1e-6)
        of_log_gain = of_clip * 1.5 * mean * float(gains[index])  # the clip is 1.5 * e^log_gain * mean
        np.testing.assert_allclose(float(site.log_gain.grad.flatten()[index]), of_log_gain, rtol=1e-4, atol=1e-8)


def test_it_starts_as_ternary_rows():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    site = LearnedTernaryQuantizer().site((5, 40), ParameterRole.MATRIX)
    assert torch.equal(site(weight), TernaryQuantizer(group="row").fake_quantize(weight))


def test_a_row_of_zeros_has_a_gradient_that_lets_it_leave():
    weight = torch.zeros(2, 8, requires_grad=True)
    site_with([1.0, 0.5], (2, 8))(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 8))  # pyright: ignore[reportArgumentType]


def test_a_gain_that_follows_its_gradient_lowers_the_error():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    site = LearnedTernaryQuantizer().site((8, 64), ParameterRole.MATRIX)
    optimizer = torch.optim.SGD(site.parameters(), lr=1.0)
    errors: list[float] = []
    for _ in range(60):
        error = (site(weight) - weight).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.97 * errors[0]


def test_large_steps_of_the_optimizer_leave_every_scale_positive():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    site = LearnedTernaryQuantizer().site((8, 64), ParameterRole.MATRIX)
    assert isinstance(site, LearnedSite)
    optimizer = torch.optim.Adam(site.parameters(), lr=0.03)
    for _ in range(100):  # a gradient that always asks for less
        optimizer.zero_grad()
        site.gain.sum().backward()
        optimizer.step()
    assert 0 < site.gain.max() < 0.2
    assert site.fault(weight) is None


FAULTS = {
    "zero": (0.0, 0.1, "a learned scale of 0 times"),
    "infinite": (float("inf"), 0.1, "a learned scale of inf times"),
    "not a number": (float("nan"), 0.1, "a learned scale of nan times"),
    "subnormal": (1e-4, 0.1, "a learned scale of 1e-05, which fp16 rounds"),
    "too large": (1e5, 10.0, r"a scale of 1e\+06, and fp16 ends at 65504"),
}


@pytest.mark.parametrize(("gain", "size", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_scale_that_fp16_does_not_hold_is_refused_by_name(gain: float, size: float, message: str):
    weight, site = torch.full((2, 4), size), site_with([1.0, gain], (2, 4))
    with pytest.raises(ProblemError, match=rf"'layers\.0\.up' has {message}"):
        LearnedTernaryQuantizer().pack(weight, site, name="layers.0.up")


def test_rows_below_the_smallest_scale_are_packed_as_they_were_trained():
    weight, quantizer = torch.full((2, 4), 1e-7), LearnedTernaryQuantizer()
    site = site_with([0.5, 2.0], (2, 4))
    assert np.array_equal(quantizer.unpack(quantizer.pack(weight, site), (2, 4)), site(weight).detach().numpy())


def test_it_is_not_packed_without_what_was_learned():
    with pytest.raises(ProblemError, match="the scales of 'up' are learned, and its site was not given"):
        LearnedTernaryQuantizer().pack(torch.ones(2, 4), name="up")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_weight_of_another_dtype_is_learned_too(dtype: torch.dtype):
    weight: Tensor = torch.randn(3, 8).to(dtype).requires_grad_()
    site = LearnedTernaryQuantizer().site((3, 8), ParameterRole.MATRIX)
    result = site(weight)
    result.sum().backward()
    assert result.dtype == dtype
    assert isinstance(site.log_gain, torch.nn.Parameter)
    assert site.log_gain.grad is not None
    assert site.log_gain.grad.isfinite().all()
