"""What a single use of shared weights has of its own.

Gains and low-rank deltas change a weight after the quantizer, so the shared weight is quantized once and stored once.
The vector and the norm of a use act on a whole block: without them a block that is used again sees nothing that tells
the uses apart (what depth recurrence needs to survive quantization).

Shape suffixes: B batch, S sequence, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penstock.hooks.contracts import AdaptableSite, AddedParameters, ParameterLayout, ParameterRole, Shareable
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.config import PerUse
from penstock.sharing.parts import Place, place_of
from penstock.sharing.result import InModules

EPSILON = 1e-5  # of the norm of a block's output


def add_per_use(settings: PerUse, model: Shareable, groups: Sequence[Sequence[str]], seed: int) -> AddedParameters:
    """Adds to every weight of the groups, and to every block that one of them stands in."""
    if not settings.anything:
        return AddedParameters()
    if not model.sites:
        what = f"{type(model.module).__name__} has no weight sites, which parameters of single uses need"
        fix = "leave out `per_use`, or use an architecture with weight sites, such as glm-moe"
        raise ProblemError(Problem("unsupported", what, "", fix))
    names = [name for group in groups for name in group]
    added = dict(_to_weights(settings, model, names, torch.Generator().manual_seed(seed)))
    added |= dict(_to_blocks(settings, model, names))
    return AddedParameters(dict.fromkeys(added, ParameterRole.NORM), InModules(added))


def _to_weights(
    settings: PerUse, model: Shareable, names: Sequence[str], generator: torch.Generator
) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    for site in (model.sites[name] for name in names if name in model.sites):
        transforms: list[nn.Module] = [OutputGains(site.weight)] if settings.gains else []
        if settings.low_rank:
            transforms.append(LowRankDelta(site.weight, settings.low_rank, generator))
        for transform in transforms:
            assert isinstance(site, AdaptableSite)
            path = site.adapt(transform)
            yield from ((f"{path}.{own}", (transform, own)) for own, _ in transform.named_parameters())


def _to_blocks(settings: PerUse, model: Shareable, names: Sequence[str]) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    if not (settings.loop_embedding or settings.norms):
        return
    places = [place_of(name, model.roles[name], model.layouts.get(name)) for name in names]
    for block in dict.fromkeys(place.block for place in places):
        zeros_D = _as_wide_as(model, block)
        use = BlockUse(zeros_D if settings.loop_embedding else None, zeros_D + 1 if settings.norms else None)
        use.attach(_without_use(model.module.get_submodule(block), block))
        yield from ((f"{block}.per_use.{own}", (use, own)) for own, _ in use.named_parameters())


def _without_use(module: nn.Module, block: str) -> nn.Module:
    """The module of a block; raises `ProblemError` if another strategy gave it a vector or a norm."""
    if hasattr(module, "per_use"):
        what = f"'{block}' has a vector or a norm of its own from another strategy"
        fix = "set `loop_embedding` and `norms` in one strategy, because they belong to whole layers"
        raise ProblemError(Problem("shared-twice", what, "", fix))
    return module


class OutputGains(nn.Module):
    """A factor for each output of a weight [..., out, in]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(weight.shape[-2], dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.gain.unsqueeze(-1)


class LowRankDelta(nn.Module):
    """A weight [..., out, in] plus a product of rank R, as in LoRA (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        *leading, outputs, inputs = weight.shape
        drawn = torch.randn((*leading, rank, inputs), generator=generator) * inputs**-0.5
        self.down = nn.Parameter(drawn.to(weight.device, weight.dtype))
        self.up = nn.Parameter(torch.zeros((*leading, outputs, rank), dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


class BlockUse(nn.Module):
    """A vector that is added to what a block reads, and a norm of what it returns; either may be absent."""

    def __init__(self, vector_D: Tensor | None, gain_D: Tensor | None) -> None:
        super().__init__()
        self.loop_embedding = None if vector_D is None else nn.Parameter(vector_D)
        self.norm = None if gain_D is None else nn.Parameter(gain_D)
        parts = {"a vector added to the input of a block": vector_D, "a norm after a block": gain_D}
        self.unpublished = " and ".join(what for what, tensor in parts.items() if tensor is not None)

    def attach(self, block: nn.Module) -> None:
        block.add_module("per_use", self)
        if self.loop_embedding is not None:
            block.register_forward_pre_hook(self.before)
        if self.norm is not None:
            block.register_forward_hook(self.after)

    def before(self, block: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x_BSD: Tensor = arguments[0]
        return (x_BSD + cast(Tensor, self.loop_embedding).to(x_BSD.dtype), *arguments[1:])

    def after(self, block: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            first, *rest = cast("tuple[Any, ...]", output)
            return (self._normalised(first), *rest)
        return self._normalised(output)

    def _normalised(self, x_BSD: Tensor) -> Tensor:
        gain_D = cast(Tensor, self.norm).to(x_BSD.dtype)
        return F.rms_norm(x_BSD, gain_D.shape, gain_D, EPSILON)


def _as_wide_as(model: Shareable, block: str) -> Tensor:
    """Zeros as wide as what a block reads: the inputs of the first weight in it that reads the model's width."""
    for name, weight in model.parameters.items():
        place = place_of(name, model.roles[name], model.layouts.get(name))
        if _reads_the_width(place) and place.block == block:
            shape = (model.layouts.get(name) or ParameterLayout()).shapes(tuple(weight.shape))
            return weight.detach().new_zeros(next(iter(shape.values()))[-1])
    what = f"the width of the block '{block}' cannot be told from its weights"
    raise ProblemError(Problem("unsupported", what, "", "leave out `loop_embedding` and `norms`"))


def _reads_the_width(place: Place) -> bool:
    return place.layer is not None and place.parts[0] in ("q", "gate", "up", "experts")
