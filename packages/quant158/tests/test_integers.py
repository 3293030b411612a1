"""Laws of whole numbers with a scale a row, against arithmetic on Python numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.quant158.integers import Int4Quantizer, Int8Quantizer

every_width = pytest.mark.parametrize("quantizer", [Int8Quantizer(), Int4Quantizer()], ids=["int8", "int4"])


def rounded_by_hand(row: list[float], largest: int) -> list[float]:
    scale = float(np.float16(max(np.float32(max(map(abs, row))) / np.float32(largest), np.float32(2**-14))))
    whole = [max(-largest, min(largest, round(float(np.float32(value) / np.float32(scale))))) for value in row]
    return [float(np.float32(value) * np.float32(scale)) for value in whole]


@every_width
def test_values_are_the_nearest_multiples_of_the_scale_of_the_row(quantizer: Int8Quantizer):
    weight = torch.randn(6, 33, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 2, 6)[:, None]
    expected = [rounded_by_hand(row, quantizer.largest) for row in weight.tolist()]
    assert quantizer.site((6, 33), min(quantizer.roles))(weight).tolist() == expected


@every_width
def test_the_gradient_passes_unchanged(quantizer: Int8Quantizer):
    weight, upstream = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    quantizer.site((3, 4), min(quantizer.roles))(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)  # pyright: ignore[reportArgumentType]


@every_width
def test_divergence_stays_visible_in_its_row_and_only_there(quantizer: Int8Quantizer):
    weight = torch.randn(3, 4)
    weight[1, 2] = float("inf")
    result = quantizer.site((3, 4), min(quantizer.roles))(weight)
    assert not result[1].isfinite().any()
    assert result[[0, 2]].isfinite().all()
