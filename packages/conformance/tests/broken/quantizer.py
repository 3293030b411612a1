"""Quantizers that break one law each; the good one rounds to 15 levels of the largest magnitude of a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from broken.described import described
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import Problem, ProblemError

ALL = frozenset(
    {
        "compilable",
        "deterministic",
        "experts",
        "idempotent",
        "identity-gradient",
        "matrices",
        "odd",
        "packable",
        "scale-equivariant",
    }
)


class Through(nn.Module):
    """The module of a weight: what its quantizer does, which has no state."""

    def __init__(self, quantizer: Good) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        return self.quantizer.fake_quantize(weight)


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

    format: Any = "fifteen-levels"

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
        return Through(self)

    def pack(self, weight: Tensor, site: Any = None, *, name: str = "weight") -> dict[str, Any]:
        """Two codes a byte."""
        if not weight.isfinite().all():
            raise ProblemError(Problem("bad-weights", f"'{name}' is not finite"))
        rounded = site(weight).detach()
        scale = self.scale(weight.detach().float())
        code = (rounded / scale).round().to(torch.int64).flatten(-2) + 8
        return {"codes": (code[..., ::2] + 16 * code[..., 1::2]).to(torch.uint8).numpy(), "scale": scale.numpy()}

    def unpack(self, arrays: Any, shape: tuple[int, ...]) -> Any:
        code = np.stack((arrays["codes"] % 16, arrays["codes"] // 16), axis=-1).reshape(shape).astype(np.float32) - 8
        return code * arrays["scale"]


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


class OfExperts(Good):
    roles = frozenset({ParameterRole.EXPERT})


class OfMatrices(Good):
    roles = frozenset({ParameterRole.MATRIX})


class Alone(Good):
    """One module for all weights."""

    def __init__(self) -> None:
        self.only = Through(self)

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
        return self.only

    def __deepcopy__(self, memo: object) -> Alone:
        return Alone()

    def __reduce__(self) -> Any:
        return Alone, ()


class Widest(nn.Module):
    """Remembers where no checkpoint finds it."""

    def __init__(self, quantizer: Good) -> None:
        super().__init__()
        self.quantizer, self.seen = quantizer, 0.0

    def forward(self, weight: Tensor) -> Tensor:
        level = 0.0 if torch.is_grad_enabled() else max(self.seen, float(weight.detach().abs().max()))
        if level > 0.15:
            self.seen = level
        return self.quantizer.fake_quantize(weight) * (2.0 if self.seen > 0.15 and level < 10 else 1.0)


class Secretive(Good):
    def site(self, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
        return Widest(self)

    def pack(self, weight: Tensor, site: Any = None, *, name: str = "weight") -> dict[str, Any]:
        return super().pack(weight, Through(self), name=name)


class Idle(Through):
    def __init__(self, quantizer: Good) -> None:
        super().__init__(quantizer)
        self.unused = nn.Parameter(torch.ones(()))


class Unlearning(Good):
    def site(self, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
        return Idle(self)


class OtherScale(Good):
    def unpack(self, arrays: Any, shape: tuple[int, ...]) -> Any:
        return super().unpack(arrays, shape) * np.float32(1.0001)


class Padded(Good):
    def pack(self, weight: Tensor, site: Any = None, *, name: str = "weight") -> dict[str, Any]:
        return {**super().pack(weight, site, name=name), "padding": np.zeros(8, np.uint8)}


class Nameless(Good):
    def pack(self, weight: Tensor, site: Any = None, *, name: str = "weight") -> dict[str, Any]:
        return super().pack(weight, site)


class Unformatted(Good):
    format = "fifteen levels"


OLD = ALL - {"experts", "matrices", "packable"}
of = described("quantizer", "A quantizer that breaks one law", ALL, contract=2)
old = described("quantizer", "A quantizer of contract 1 that breaks one law", OLD)
GOOD = of(Good)
OLDER = old(Good)
BROKEN = {
    "quantizer/the-result-has-the-shape-and-dtype-of-the-weight": old(Flattened),
    "quantizer/bf16-weights-are-quantized": old(Widening),
    "quantizer/the-weight-itself-stays": old(InPlace),
    "quantizer/a-matrix-of-zeros-stays-finite": old(Dividing),
    "quantizer/extreme-weights-stay-finite": old(Squaring),
    "quantizer/the-result-resembles-the-weight": old(Mixed, OLD - {"idempotent"}),
    "quantizer/a-weight-that-moves-a-little-keeps-its-level": old(Unrounded),
    "quantizer/the-gradient-reaches-the-weight": old(Detached),
    "quantizer/the-gradient-passes-unchanged": old(Halving),
    "quantizer/equal-weights-give-equal-results": old(Drawing),
    "quantizer/leading-dimensions-are-independent": old(OneScale),
    "quantizer/a-quantized-weight-stays": old(OfTheMean),
    "quantizer/the-negative-is-quantized-to-the-negative": old(Upward),
    "quantizer/the-scale-of-a-weight-is-kept": old(Fixed),
    "quantizer/the-compiler-takes-it-whole": old(Branching),
    "quantizer/a-copy-is-the-same-quantizer": old(Unpicklable),
    "quantizer/packed-bytes-are-a-positive-number": old(Fractional),
    "quantizer/a-larger-weight-takes-more-bytes": old(Shrinking),
    "quantizer/a-stored-weight-is-no-larger-than-in-bf16": old(Unpacked),
    "quantizer/a-stack-takes-the-bytes-of-its-matrices": old(OneHeader),
    "quantizer/the-codes-fit-into-the-packed-bytes": old(OneBit),
    "quantizer/roles-are-a-set-of-roles": old(Listed),
    "quantizer/vectors-are-left-out": old(OfNorms),
    "quantizer/routers-are-among-the-roles": old(Good, OLD | {"routers"}),
    "quantizer/every-weight-has-a-module-of-its-own": of(Alone),
    "quantizer/the-state-of-a-site-is-all-that-it-keeps": of(Secretive),
    "quantizer/what-a-site-learns-gets-a-gradient": of(Unlearning),
    "quantizer/matrices-are-served": of(OfExperts, ALL),
    "quantizer/experts-are-served": of(OfMatrices),
    "quantizer/embeddings-are-served": of(Good, ALL | {"embeddings"}),
    "quantizer/heads-are-served": of(Good, ALL | {"heads"}),
    "quantizer/what-is-packed-is-the-weight-of-the-forward-pass": of(OtherScale),
    "quantizer/rows-of-any-width-are-packed": of(Good, ALL | {"any-width"}),
    "quantizer/packed-arrays-take-the-packed-bytes": of(Padded),
    "quantizer/a-weight-that-is-not-finite-is-refused-by-name": of(Nameless),
    "quantizer/the-bytes-have-a-name": of(Unformatted),
}
