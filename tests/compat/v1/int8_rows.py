"""A quantizer: eight bits a weight, one scale a row."""

import math

import torch

from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import ParameterRole


class Int8Rows:
    roles = frozenset({ParameterRole.MATRIX, ParameterRole.EXPERT})

    def fake_quantize(self, weight: torch.Tensor) -> torch.Tensor:
        scale = weight.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
        return weight + ((weight / scale).round() * scale - weight).detach()

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) + 4 * math.prod(shape[:-1])


@hookimpl
def quantizers() -> list[Component]:
    return [Component(kind="quantizer", name="int8-rows", target="int8_rows:Int8Rows", summary="int8", contract=1)]
