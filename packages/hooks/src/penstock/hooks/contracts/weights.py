"""Parameters of a model: what each is for, which matrices it holds, what lies between it and the product that uses it,
which of them are one tensor, and in which format they are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from penstock.hooks.contracts.tensors import Array, Tensor


class ParameterRole(StrEnum):
    """What a parameter is for; optimizers, quantizers and sharing strategies choose by it."""

    MATRIX = "matrix"  # 2-D weights of attention and dense MLPs
    EXPERT = "expert"  # stacked 3-D weights of routed experts, [E, out, in]
    EMBEDDING = "embedding"
    HEAD = "head"
    ROUTER = "router"
    NORM = "norm"
    BIAS = "bias"


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """Which matrices [out, in] a stored tensor holds, where it is more than one or lies another way.

    `parts` are the matrices that lie one after another along the outputs, by name and number of rows: gate and up of an
    expert, or q, k and v. With `blocks` the outputs are that many blocks, each with so many rows of every part: q, k
    and v head by head. `transposed`: the tensor is stored as [..., in, out].

    >>> ParameterLayout((("gate", 3), ("up", 3))).shapes((8, 6, 4))
    {'gate': (8, 3, 4), 'up': (8, 3, 4)}
    >>> ParameterLayout(transposed=True).shapes((4, 6))
    {'whole': (6, 4)}
    """

    parts: tuple[tuple[str, int], ...] = ()
    blocks: int = 1
    transposed: bool = False

    def shapes(self, stored: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shape of each matrix, leading dimensions kept."""
        *leading, rows, columns = (*stored[:-2], *(stored[:-3:-1] if self.transposed else stored[-2:]))
        parts = self.parts or (("whole", rows // self.blocks),)
        return {name: (*leading, self.blocks * size, columns) for name, size in parts}

    def matrices(self, stored: Tensor) -> dict[str, Tensor]:
        """Each matrix [..., out, in] of a tensor or array: views, but with `blocks` copies."""
        shapes = self.shapes(tuple(stored.shape))
        views = zip(shapes.items(), self._views(stored), strict=True)
        return {name: view if self.blocks == 1 else view.reshape(shape) for (name, shape), view in views}

    def write(self, stored: Tensor, matrices: Mapping[str, Tensor]) -> None:
        """Inverse of `matrices`, in place."""
        for matrix, view in zip(matrices.values(), self._views(stored), strict=True):
            view[...] = matrix.reshape(view.shape)

    def _views(self, stored: Tensor) -> list[Tensor]:
        """[..., out, in] of each part, or [..., blocks, out / blocks, in]."""
        rows = stored.swapaxes(-1, -2) if self.transposed else stored
        if not self.parts:
            return [rows]
        if self.blocks > 1:
            rows = rows.reshape(*rows.shape[:-2], self.blocks, rows.shape[-2] // self.blocks, rows.shape[-1])
        starts = [sum(size for _, size in self.parts[:index]) for index in range(len(self.parts))]
        return [rows[..., start : start + size, :] for start, (_, size) in zip(starts, self.parts, strict=True)]


@runtime_checkable
class LaidOut(Protocol):
    """A language model some of whose parameters are not one matrix [..., out, in] each."""

    def parameter_layout(self) -> Mapping[str, ParameterLayout]:
        """Layout of those parameters by name; the others are matrices or vectors as they stand."""
        ...


class WeightSite(Protocol):
    """What lies between a stored parameter and the product that uses it: what sharing adds, then the quantizer."""

    @property
    def role(self) -> ParameterRole: ...

    @property
    def layout(self) -> ParameterLayout: ...

    @property
    def weight(self) -> Tensor:
        """The stored parameter."""
        ...

    def add(self, transform: Any) -> str:
        """Puts a `torch.nn.Module`, weight to weight of the same shape, behind what is there and before the quantizer.
        Returns the name under which the model has it: a parameter `gain` of it is then called `NAME.gain`."""
        ...

    def effective(self) -> Tensor:
        """The weight that the product uses."""
        ...

    def quantizer_state(self) -> Mapping[str, Tensor]:
        """What the quantizer keeps of this weight, empty for one without state."""
        ...

    def load_quantizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `quantizer_state`, bit for bit."""
        ...


@runtime_checkable
class Sited(Protocol):
    """A language model whose weights can be changed on their way to the product, with parameters of that change."""

    def weight_sites(self) -> Mapping[str, WeightSite]:
        """Sites by the name of the parameter."""
        ...


@dataclass(frozen=True, slots=True)
class SharingPlan:
    """Groups of parameter names that are one tensor; the first name of a group is the one that is stored."""

    groups: tuple[tuple[str, ...], ...] = ()


class SharingStrategy(Protocol):
    """Decides which parameters become one tensor, from their roles and shapes: contract 1."""

    def plan(self, roles: Mapping[str, ParameterRole], shapes: Mapping[str, tuple[int, ...]]) -> SharingPlan: ...


@dataclass(frozen=True, slots=True)
class SharedGroup:
    """Parameters that are one tensor, the numbers that this saves, and how far they were apart before: the norm of what
    was lost over the norm of what there was, None where the values say nothing (a meta device)."""

    names: tuple[str, ...]
    saved: int
    error: float | None = None


class SharedParameters(Protocol):
    """What a sharing strategy did to a model, and the parameters that it added."""

    @property
    def plan(self) -> SharingPlan:
        """Names that are one tensor. Whoever calls `apply` carries it out."""
        ...

    def roles(self) -> Mapping[str, ParameterRole]:
        """Role of each added parameter, by its name in the model."""
        ...

    def stored_state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold beside the model's own parameters."""
        ...

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `stored_state`, bit for bit; raises `ProblemError` that names missing and unknown tensors."""
        ...

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        """Called after each optimizer step with the trained share of the run; `total` sums over ranks, and all ranks
        do the same."""
        ...

    def hardened(self) -> SharingPlan | None:
        """The plan that was learned, None where nothing is learned."""
        ...

    def report(self) -> Sequence[SharedGroup]: ...


@runtime_checkable
class SiteSharing(Protocol):
    """Shares parameters and adds parameters of its own: contract 2."""

    def apply(self, sites: Mapping[str, WeightSite], seed: int) -> SharedParameters:
        """Chooses among the sites and adds to them what it needs. Raises `ProblemError`, with nothing added, where
        there is nothing to share. The same seed adds the same values."""
        ...


class Quantizer(Protocol):
    """Simulates a low-precision weight format in training, without state: contract 1.

    `roles` are the parameters it applies to. `fake_quantize` takes [..., out, in] and returns the same shape on the
    format's grid, with a straight-through gradient; leading dimensions are independent matrices.
    """

    roles: frozenset[ParameterRole]

    def fake_quantize(self, weight: Tensor) -> Tensor: ...

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a weight of this shape takes when stored in the format, scales included."""
        ...


@runtime_checkable
class SiteQuantizer(Protocol):
    """Simulates a low-precision weight format by a module for each weight, which may learn: contract 2."""

    roles: frozenset[ParameterRole]

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> Any:
        """A `torch.nn.Module` for one weight [..., out, in] of the role, whose layout was taken apart before. Called
        with the weight, it returns the same shape on the format's grid, with a gradient."""
        ...

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a weight of this shape takes when stored in the format, scales included."""
        ...


@runtime_checkable
class PackedFormat(SiteQuantizer, Protocol):
    """A quantizer that writes and reads the bytes of its format (capability `packable`).

    `format` names the bytes in the header of a file: other bytes, another name.
    """

    format: str

    def pack(self, weight: Tensor, site: Any = None, *, name: str = "weight") -> Mapping[str, Array]:
        """numpy arrays of `packed_bytes` together. `site` is the weight's module, None where it has no state; `name` is
        what a `ProblemError` calls a weight that cannot be packed because it is not finite."""
        ...

    def unpack(self, arrays: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        """The weight that the site returned, bit for bit, as a numpy array."""
        ...


def _no_formats() -> dict[ParameterRole, Quantizer | SiteQuantizer]:
    return {}


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """The quantizer of the parameters of each role; the other roles are stored as they are."""

    formats: Mapping[ParameterRole, Quantizer | SiteQuantizer] = field(default_factory=_no_formats)

    @classmethod
    def of(cls, given: StoragePlan | Quantizer | SiteQuantizer | None) -> StoragePlan:
        """A quantizer alone is the plan of its own roles."""
        if isinstance(given, StoragePlan):
            return given
        return cls() if given is None else cls(dict.fromkeys(given.roles, given))

    def bytes_of(self, role: ParameterRole, shape: tuple[int, ...], layout: ParameterLayout | None = None) -> int:
        """Bytes of a stored parameter: packed where its role has a format, bf16 where it has none."""
        quantizer = self.formats.get(role)
        if quantizer is None:
            return 2 * math.prod(shape)
        return sum(quantizer.packed_bytes(each) for each in (layout or ParameterLayout()).shapes(shape).values())
