"""Quantizers that break one law each; the good one rounds to 15 levels of the largest magnitude of a matrix."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from broken.described import described
from penstock.hooks.contracts import ParameterRole

ALL = frozenset({"compilable", "deterministic", "idempotent", "identity-gradient", "odd", "scale-equivariant"})


class Good:
    roles: Any = frozenset({ParameterRole.MATRIX, ParameterRole.EXPERT})

    def scale(self, weight: Tensor) -> Tensor:
        return (weight.abs().amax((-2, -1), keepdim=True) / 7).clamp_min(1e-35)

    def rounded(self, weight: Tensor) -> Tensor:
        scale = self.scale(weight)
        return (weight / scale).round() * scale

    def fake_quantize(self, weight: Tensor) -> Tensor:
        return self.rounded(weight.detach().float()).to(weight.dtype) + (weight - weight.detach())

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[:-2]) * (math.prod(shape[-2:]) // 2 + 4)


class Flattened(Good):
    def fake_quantize(self, weight: Tensor) -> Tensor:
        return super().fake_quantize(weight).flatten()


class Widening(Good):
    def fake_quantize(self, weight: Tensor) -> Tensor:
        result = super().fake_quantize(weight)
        return result.float() if weight.dtype == torch.bfloat16 else result


class InPlace(Good):
    def fake_quantize(self, weight: Tensor) -> Tensor:
        result = super().fake_quantize(weight)
        with torch.no_grad():
            weight.copy_(result)
        return result


class Dividing(Good):
    def scale(self, weight: Tensor) -> Tensor:
        return weight.abs().amax((-2, -1), keepdim=True) / 7


class Squaring(Good):
    def scale(self, weight: Tensor) -> Tensor:
        return super().scale(weight) + (weight * weight).mean((-2, -1), keepdim=True) * 0


class Mixed(Good):
    def rounded(self, weight: Tensor) -> Tensor:
        return -super().rounded(weight)


class Unrounded(Good):
    def rounded(self, weight: Tensor) -> Tensor:
        return weight


class Detached(Good):
    def fake_quantize(self, weight: Tensor) -> Tensor:
        return super().fake_quantize(weight).detach()


class Halving(Good):
    def fake_quantize(self, weight: Tensor) -> Tensor:
        return self.rounded(weight.detach().float()).to(weight.dtype) + (weight - weight.detach()) / 2


class Drawing(Good):
    def fake_quantize(self, weight: Tensor) -> Tensor:
        torch.rand(())
        return super().fake_quantize(weight)


class OneScale(Good):
    def scale(self, weight: Tensor) -> Tensor:
        return (weight.abs().amax() / 7).clamp_min(1e-35)


class OfTheMean(Good):
    def scale(self, weight: Tensor) -> Tensor:
        return (weight.abs().mean((-2, -1), keepdim=True) / 3).clamp_min(1e-35)


class Upward(Good):
    def rounded(self, weight: Tensor) -> Tensor:
        scale = self.scale(weight)
        return (weight / scale - 0.25).round() * scale


class Fixed(Good):
    def rounded(self, weight: Tensor) -> Tensor:
        return (weight.clamp(-1, 1) * 128).round() / 128


class Branching(Good):
    def scale(self, weight: Tensor) -> Tensor:
        return super().scale(weight.nan_to_num() if weight.isnan().any() else weight)


class Unpicklable(Good):
    def __init__(self) -> None:
        self.levels = lambda: 7


class Fractional(Good):
    def packed_bytes(self, shape: tuple[int, ...]) -> Any:
        return float(super().packed_bytes(shape))


class Shrinking(Good):
    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return super().packed_bytes((*shape[:-1], min(shape[-1], 256)))


class Unpacked(Good):
    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return 4 * math.prod(shape)


class OneHeader(Good):
    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) // 2 + 4


class OneBit(Good):
    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) // 8


class Listed(Good):
    roles = [ParameterRole.MATRIX]


class OfNorms(Good):
    roles = frozenset({ParameterRole.MATRIX, ParameterRole.NORM})


of = described("quantizer", "A quantizer that breaks one law", ALL)
GOOD = of(Good)
BROKEN = {
    "quantizer/the-result-has-the-shape-and-dtype-of-the-weight": of(Flattened),
    "quantizer/bf16-weights-are-quantized": of(Widening),
    "quantizer/the-weight-itself-stays": of(InPlace),
    "quantizer/a-matrix-of-zeros-stays-finite": of(Dividing),
    "quantizer/extreme-weights-stay-finite": of(Squaring),
    "quantizer/the-result-resembles-the-weight": of(Mixed, ALL - {"idempotent"}),
    "quantizer/a-weight-that-moves-a-little-keeps-its-level": of(Unrounded),
    "quantizer/the-gradient-reaches-the-weight": of(Detached),
    "quantizer/the-gradient-passes-unchanged": of(Halving),
    "quantizer/equal-weights-give-equal-results": of(Drawing),
    "quantizer/leading-dimensions-are-independent": of(OneScale),
    "quantizer/a-quantized-weight-stays": of(OfTheMean),
    "quantizer/the-negative-is-quantized-to-the-negative": of(Upward),
    "quantizer/the-scale-of-a-weight-is-kept": of(Fixed),
    "quantizer/the-compiler-takes-it-whole": of(Branching),
    "quantizer/a-copy-is-the-same-quantizer": of(Unpicklable),
    "quantizer/packed-bytes-are-a-positive-number": of(Fractional),
    "quantizer/a-larger-weight-takes-more-bytes": of(Shrinking),
    "quantizer/a-stored-weight-is-smaller-than-in-bf16": of(Unpacked),
    "quantizer/a-stack-takes-the-bytes-of-its-matrices": of(OneHeader),
    "quantizer/the-codes-fit-into-the-packed-bytes": of(OneBit),
    "quantizer/roles-are-a-set-of-roles": of(Listed),
    "quantizer/vectors-are-left-out": of(OfNorms),
    "quantizer/routers-are-among-the-roles": of(Good, ALL | {"routers"}),
}
