"""What the quantizers of this package have in common: their sites, and how a weight becomes bytes and comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import Problem, ProblemError
from penstock.quant158.activations import rounded_tokens
from penstock.quant158.config import Warmup
from penstock.quant158.packing import pack, pack_nibbles
from penstock.quant158.stored import Arrays, format_of, packed_bytes, unpacked
from penstock.quant158.warmup import WarmingUp


class Stored(NamedTuple):
    """A weight on the grid: whole numbers [..., out, in], and fp16 scales in the shape of the format."""

    level: Tensor
    scale: Tensor


class GridSite(nn.Module, ABC):
    """The module of one weight: returns the weight on the grid, with a gradient."""

    @abstractmethod
    def stored(self, weight: Tensor) -> Stored:
        """What a file holds of the weight: the forward pass computes with its product."""

    @abstractmethod
    def fault(self, weight: Tensor) -> str | None:
        """Why the format cannot hold the weight, which is finite; None if it can."""


_WRITTEN: Mapping[str, Callable[[Tensor], Tensor]] = {
    "base3": pack,
    "int8": lambda level: level.to(torch.int8).flatten(),
    "int4": pack_nibbles,
}


class PackedQuantizer(ABC):
    """Base of quantizers whose weights are whole numbers times fp16 scales.

    `activations="int8"` also rounds what the weights multiply, by token. `warmup` says over how many tokens training
    goes from full precision to the grid.
    """

    def __init__(
        self,
        name: str,
        roles: frozenset[ParameterRole],
        *,
        activations: Literal["int8"] | None = None,
        warmup: Warmup | None = None,
    ) -> None:
        self.format = name
        self.roles = roles
        self.activations = activations
        self.warmup = warmup

    @property
    def input_bits(self) -> int | None:
        return None if self.activations is None else 8

    def input(self, x: Tensor) -> Tensor:
        return x if self.activations is None else rounded_tokens(x)

    @abstractmethod
    def grid_site(self, shape: tuple[int, ...]) -> GridSite:
        """The module of a weight once training is warm."""

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
        site = self.grid_site(shape)
        return site if self.warmup is None else WarmingUp(site, self.warmup)

    @torch.no_grad()
    def pack(self, weight: Tensor, site: nn.Module | None = None, *, name: str = "weight") -> dict[str, NDArray[Any]]:
        """`codes` and `scale`; raises `ProblemError` for a weight that has none, or that is still warming up."""
        check_packable(weight, name)
        grid = self._grid_of(tuple(weight.shape), site, name)
        if fault := grid.fault(weight):
            raise ProblemError(Problem("not-finite", f"'{name}' has {fault}", "", _DIVERGED))
        stored = grid.stored(weight)
        codes = _WRITTEN[format_of(self.format).coding](stored.level)
        return {"codes": codes.cpu().numpy(), "scale": stored.scale.cpu().numpy()}

    def _grid_of(self, shape: tuple[int, ...], site: nn.Module | None, name: str) -> GridSite:
        if isinstance(site, WarmingUp):
            if site.share < 1:
                what = f"'{name}' is still warming up: {float(site.share):.0%} of it is on the grid"
                raise ProblemError(Problem("not-trained", what, "", "train until `warmup` ends, or shorten it"))
            site = site.site
        if site is None:
            return self.grid_site(shape)
        assert isinstance(site, GridSite)
        return site

    def unpack(self, arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
        """The weight used in the forward pass, bit for bit, as fp32; a pass in half precision rounds it."""
        return unpacked(self.format, arrays, shape)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the codes and of the fp16 scales."""
        return packed_bytes(self.format, shape)


_DIVERGED = "use a checkpoint from before the run diverged"


def check_packable(weight: Tensor, name: str) -> None:
    """Raises `ProblemError` for what no format can represent."""
    if weight.ndim < 2 or not weight.is_floating_point():
        what = f"'{name}' is {weight.dtype} {tuple(weight.shape)}, not a floating-point matrix"
        raise ProblemError(Problem("bad-weights", what, "", "pack matrices of weights only"))
    if not bool(weight.isfinite().all()):
        what = f"'{name}' has NaN or infinite values, which no format stores"
        raise ProblemError(Problem("not-finite", what, "", _DIVERGED))
