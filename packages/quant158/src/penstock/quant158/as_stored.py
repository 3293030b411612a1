"""Quantizers of weights that are already what the forward pass computes with, such as those of an artifact."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole, QuantizesInput, StoragePlan


class Stored:
    """Stands for a quantizer where its weights are loaded: keeps them as they are, and rounds inputs as it does."""

    def __init__(self, quantizer: Any) -> None:
        self.roles: frozenset[ParameterRole] = quantizer.roles
        self.format: str = getattr(quantizer, "format", type(quantizer).__name__)
        self._quantizer = quantizer

    @property
    def input_bits(self) -> int | None:
        return self._quantizer.input_bits if isinstance(self._quantizer, QuantizesInput) else None

    def input(self, x: Tensor) -> Tensor:
        return self._quantizer.input(x)

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
        return nn.Identity()

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return self._quantizer.packed_bytes(shape)


def stored_quantizer(given: Any) -> Any:
    """What stands for a quantizer or a `StoragePlan`; the same for each role that has the same quantizer."""
    if not isinstance(given, StoragePlan):
        return None if given is None else Stored(given)
    stands = {id(quantizer): Stored(quantizer) for quantizer in given.formats.values()}
    return StoragePlan({role: stands[id(quantizer)] for role, quantizer in given.formats.items()})
