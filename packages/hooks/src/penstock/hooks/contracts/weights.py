"""Parameters of a model: roles, layouts, transforms between storage and use, sharing, and storage formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from penstock.hooks.contracts.tensors import Array, Tensor


class ParameterRole(StrEnum):
    """The purpose of a parameter; optimizers, quantizers and sharing strategies select parameters by it."""

    MATRIX = "matrix"  # 2-D weights of attention and dense MLPs
    EXPERT = "expert"  # stacked 3-D weights of routed experts, [E, out, in]
    EMBEDDING = "embedding"
    HEAD = "head"
    ROUTER = "router"
    NORM = "norm"
    BIAS = "bias"


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """The matrices [out, in] in a stored tensor that holds more than one, or stores them transposed.

    `parts` are matrices concatenated along the outputs, by name and number of rows: gate and up of an expert, or q, k
    and v. With `blocks` the outputs are that many blocks, each with that many rows of every part: q, k and v per head.
    `transposed`: the tensor is stored as [..., in, out].

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
        """Each matrix [..., out, in] of a tensor or array, as a view (a copy with `blocks`)."""
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
    """A language model with parameters that are not a single matrix [..., out, in]."""

    def parameter_layout(self) -> Mapping[str, ParameterLayout]:
        """Layout of those parameters by name; the others are plain matrices or vectors."""
        ...


class WeightSite(Protocol):
    """The path from a stored parameter to the product that uses it: transforms of sharing, then the quantizer."""

    @property
    def role(self) -> ParameterRole: ...

    @property
    def layout(self) -> ParameterLayout: ...

    @property
    def weight(self) -> Tensor:
        """The stored parameter."""
        ...

    def add(self, transform: Any) -> str:
        """Appends a `torch.nn.Module` that maps a weight to a weight of the same shape, before the quantizer. Returns
        its name in the model: its parameter `gain` is then called `NAME.gain`."""
        ...

    def effective(self) -> Tensor:
        """The weight that the product uses."""
        ...

    def quantizer_state(self) -> Mapping[str, Tensor]:
        """The quantizer's state for this weight; empty if it has none."""
        ...

    def load_quantizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `quantizer_state`, bit for bit."""
        ...


@runtime_checkable
class PackableSite(Protocol):
    """A `WeightSite` whose weight can be packed as the product uses it."""

    def to_pack(self) -> Mapping[str, tuple[Tensor, Any]]:
        """What the quantizer is given, after the transforms of sharing, and its module, by matrix of the layout: the
        arguments of `PackedFormat.pack`."""
        ...


@runtime_checkable
class AdaptableSite(WeightSite, Protocol):
    """A site of a weight that several layers may share, and that each of them may use in its own way."""

    def adapt(self, transform: Any) -> str:
        """Appends a `torch.nn.Module` that maps a weight to a weight of the same shape, after the quantizer: the
        shared weight is stored once, and what the module adds belongs to this use alone. Returns its name in the
        model."""
        ...

    @property
    def adapted(self) -> bool:
        """Whether the product uses another weight than the shared one."""
        ...

    def shared(self) -> Tensor:
        """The weight as it is stored: after the quantizer, before what this use adds."""
        ...


@runtime_checkable
class FactorisableSite(WeightSite, Protocol):
    """A site of a table [V, D], such as an embedding or a head, that can become a product of two matrices."""

    def factorise(self, rank: int, storage: StoragePlan) -> Mapping[str, ParameterRole]:
        """Replaces the parameter by the best approximation of this rank: a table [V, R] under its name, and a
        projection with a site of its own, a new parameter of the role MATRIX. Returns the role of the new parameter by
        its name in the model. `storage` has the quantizers of both."""
        ...

    @property
    def whole(self) -> tuple[int, int] | None:
        """The shape [V, D] of the product; None as long as the weight is no factor."""
        ...


class Product(Protocol):
    """Computes the products with one weight by itself, such as by integers from packed codes, without a gradient."""

    def __call__(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """x [..., in] times the transposed weight [out, in]: [..., out] in fp32. For a stack [E, out, in], x [N, in]
        holds the rows of one matrix after those of another, and `counts` [E] says how many each has. x is as it was
        before the quantizer rounded it."""
        ...


@runtime_checkable
class ProductSite(Protocol):
    """A `WeightSite` whose product others can compute."""

    def multiply_by(self, products: Mapping[str, Product]) -> None:
        """From now on `products`, by matrix of the layout, compute what the weight was for. The parameter gives up its
        memory: it keeps its shape on the device `meta`."""
        ...


@runtime_checkable
class Sited(Protocol):
    """A language model whose weights can be transformed on use, by modules with their own parameters."""

    def weight_sites(self) -> Mapping[str, WeightSite]:
        """Sites by the name of the parameter."""
        ...


@dataclass(frozen=True, slots=True)
class SharingPlan:
    """Groups of parameter names that are one tensor; the first name of a group is the stored one."""

    groups: tuple[tuple[str, ...], ...] = ()


class SharingStrategy(Protocol):
    """Decides which parameters become one tensor, from their roles and shapes: contract 1."""

    def plan(self, roles: Mapping[str, ParameterRole], shapes: Mapping[str, tuple[int, ...]]) -> SharingPlan: ...


@dataclass(frozen=True, slots=True)
class SharedGroup:
    """Parameters that are one tensor, the count of numbers that this saves, and the relative error: the norm of the
    difference over the norm of the originals, or None without values (on the meta device)."""

    names: tuple[str, ...]
    saved: int
    error: float | None = None


class SharedParameters(Protocol):
    """The result of a sharing strategy, and the parameters that it added."""

    @property
    def plan(self) -> SharingPlan:
        """Names that are one tensor. The caller of `apply` ties them."""
        ...

    def roles(self) -> Mapping[str, ParameterRole]:
        """Role of each added parameter, by its name in the model."""
        ...

    def stored_state(self) -> Mapping[str, Tensor]:
        """Tensors that a checkpoint must hold in addition to the model's own parameters. Parameters are looked up in
        the model at each call: an engine that cuts parameters puts others in their place."""
        ...

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `stored_state`, bit for bit; raises `ProblemError` that names missing and unknown tensors."""
        ...

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        """Called after each optimizer step with the trained share of the run; `total` sums over ranks, and all ranks
        must act identically."""
        ...

    def hardened(self) -> SharingPlan | None:
        """The learned plan, or None if nothing is learned."""
        ...

    def report(self) -> Sequence[SharedGroup]: ...


@runtime_checkable
class SiteSharing(Protocol):
    """Shares parameters and adds parameters of its own: contract 2."""

    def apply(self, sites: Mapping[str, WeightSite], seed: int) -> SharedParameters:
        """Chooses sites and adds transforms to them. Raises `ProblemError`, with nothing added, if there is nothing to
        share. The same seed adds the same values."""
        ...


@dataclass(frozen=True, slots=True)
class Shareable:
    """A model as a sharing strategy of contract 3 sees it: the `torch.nn.Module`, its parameters by name (each object
    once, under its first name), their roles, the layouts of those that are not one matrix, and the weight sites, which
    are empty for an architecture without. `storage` has the quantizer of each role."""

    module: Any
    parameters: Mapping[str, Tensor]
    roles: Mapping[str, ParameterRole]
    layouts: Mapping[str, ParameterLayout]
    sites: Mapping[str, WeightSite]
    storage: StoragePlan

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}


def _no_roles() -> dict[str, ParameterRole]:
    return {}


def _no_tensors() -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True, slots=True)
class AddedParameters:
    """New parameters of a model: the role of each by its name in the model, and those of them that its checkpoint
    layout has no names for."""

    roles: Mapping[str, ParameterRole] = field(default_factory=_no_roles)
    beside: Mapping[str, Tensor] = field(default_factory=_no_tensors)


@runtime_checkable
class ModelSharing(Protocol):
    """Shares parameters of any model, with or without weight sites, and may change its modules: contract 3."""

    def restructure(self, model: Shareable, seed: int) -> AddedParameters:
        """Changes modules, before any strategy of the model shares: gives tables another shape, or adds parameters that
        a single use of a shared weight has. Also called for a model whose weights come from an artifact, where nothing
        is shared. The same seed adds the same values."""
        ...

    def share(self, model: Shareable, seed: int) -> SharedParameters:
        """Decides what is one tensor. Raises `ProblemError`, with nothing changed, for what cannot be shared. The
        result is not told of what `restructure` added."""
        ...


@runtime_checkable
class Unpublished(Protocol):
    """A module that sharing added and that no published architecture and no decoder has."""

    unpublished: str
    """What it computes, such as "a vector added to the input of a block"."""


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
    """Simulates a low-precision weight format with one module per weight, which may be trainable: contract 2."""

    roles: frozenset[ParameterRole]

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> Any:
        """A `torch.nn.Module` for one weight [..., out, in] of the role; fused tensors are already split. Called with
        the weight, it returns the same shape on the format's grid, with a gradient."""
        ...

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a weight of this shape takes when stored in the format, scales included."""
        ...


@runtime_checkable
class PackedFormat(SiteQuantizer, Protocol):
    """A quantizer that writes and reads the bytes of its format (capability `packable`).

    `format` names the byte format in file headers: change it if the bytes change.
    """

    format: str

    def pack(self, weight: Tensor, site: Any = None, *, name: str = "weight") -> Mapping[str, Array]:
        """numpy arrays with a total size of `packed_bytes`. `site` is the weight's module, or None if it has no state;
        `name` is the weight's name in the `ProblemError` for values that are not finite."""
        ...

    def unpack(self, arrays: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        """The output of the site, bit for bit, as a numpy array."""
        ...


@runtime_checkable
class QuantizesInput(Protocol):
    """A quantizer that also rounds what its weights multiply, so that training computes what integer products do."""

    @property
    def input_bits(self) -> int | None:
        """Bits of a rounded input; None leaves the input as it is."""
        ...

    def input(self, x: Tensor) -> Tensor:
        """The input [..., in] of a product on the grid, in its shape and dtype, with a straight-through gradient. It is
        called once for all weights that read one input."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A quantizer's module that changes in the course of training, such as one that warms up."""

    def set_tokens(self, tokens: int) -> None:
        """Called before the first step and after every step with the tokens trained so far. What follows from them is
        kept in the state of the module, so that a checkpoint computes as the run did."""
        ...


@runtime_checkable
class Guarded(Protocol):
    """A quantizer's module that knows which weights its format cannot hold."""

    def fault(self, weight: Tensor) -> str | None:
        """What stands in the way of storing the weight, such as "a scale of 0"; None if nothing does."""
        ...


@runtime_checkable
class GuardedSite(WeightSite, Protocol):
    """A weight site that passes on the faults of its quantizer."""

    def fault(self) -> str | None:
        """What stands in the way of storing the weight; None if nothing does."""
        ...


def _no_formats() -> dict[ParameterRole, Quantizer | SiteQuantizer]:
    return {}


FULL_PRECISION = "fp32"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One matrix of a parameter as a file holds it. `name` is the parameter's, or NAME:MATRIX where its layout has
    several; `format` is `fp32` or that of the quantizer; `shape` is [..., out, in]."""

    name: str
    parameter: str
    format: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """The quantizer of the parameters of each role; the other roles are stored as fp32."""

    formats: Mapping[ParameterRole, Quantizer | SiteQuantizer] = field(default_factory=_no_formats)

    @classmethod
    def of(cls, given: StoragePlan | Quantizer | SiteQuantizer | None) -> StoragePlan:
        """A single quantizer becomes the plan for its own roles."""
        if isinstance(given, StoragePlan):
            return given
        return cls() if given is None else cls(dict.fromkeys(given.roles, given))

    def entries(
        self,
        roles: Mapping[str, ParameterRole],
        shapes: Mapping[str, tuple[int, ...]],
        layouts: Mapping[str, ParameterLayout] | None = None,
    ) -> list[StoredTensor]:
        """How each parameter of `shapes` is stored, in order: packed if its role has a quantizer, else fp32."""
        known = layouts or {}
        return [
            self._entry(name, matrix, roles[name], shape)
            for name, whole in shapes.items()
            for matrix, shape in (known[name].shapes(whole) if name in known else {"": whole}).items()
        ]

    def _entry(self, parameter: str, matrix: str, role: ParameterRole, shape: tuple[int, ...]) -> StoredTensor:
        name = parameter if matrix in ("", "whole") else f"{parameter}:{matrix}"
        quantizer = self.formats.get(role)
        if quantizer is None:
            return StoredTensor(name, parameter, FULL_PRECISION, shape, 4 * math.prod(shape))
        stored_as = getattr(quantizer, "format", type(quantizer).__name__)
        return StoredTensor(name, parameter, stored_as, shape, quantizer.packed_bytes(shape))
