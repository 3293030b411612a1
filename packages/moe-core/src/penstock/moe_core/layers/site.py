"""Weight sites: what lies between a stored parameter and the product that uses it.

Transforms of sharing come first, then the quantizer, then what a single use of a shared weight adds: with the latter
alone, a tensor that several layers share is quantized once and stored once. A site is a module next to the parameter,
so its own parameters are moved, trained and sharded with the model, and the parameter keeps its name.
(`torch.nn.utils.parametrize` would rename it.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import (
    Guarded,
    ParameterLayout,
    ParameterRole,
    Product,
    Quantizer,
    QuantizesInput,
    SiteQuantizer,
    StoragePlan,
    Unpublished,
)


class Site(nn.Module):
    """Maps the stored weight to the weight that the product uses."""

    def __init__(self, role: ParameterRole, layout: ParameterLayout | None = None) -> None:
        super().__init__()
        self.role = role
        self.layout = layout or ParameterLayout()
        self.sharing = nn.ModuleList()
        self.quantizers = nn.ModuleDict()  # one per matrix of the layout
        self.uses = nn.ModuleList()
        self.reads: QuantizesInput | None = None
        self.product: Product | None = None  # of the input as it is; the weight is then on the device meta

    def forward(self, weight: Tensor) -> Tensor:
        weight = self.shared(weight)
        for transform in self.uses:
            weight = transform(weight)
        return weight

    def shared(self, weight: Tensor) -> Tensor:
        """The weight before what its use adds."""
        for transform in self.sharing:
            weight = transform(weight)
        if not self.quantizers:
            return weight
        quantized = [quantizer(part) for quantizer, part in self._quantized_parts(weight)]
        return quantized[0] if len(quantized) == 1 else torch.cat(quantized, dim=-2)

    def input(self, x: Tensor) -> Tensor:
        """What the product reads of its input; one that is not computed here rounds it by itself."""
        return x if self.reads is None or self.product is not None else self.reads.input(x)

    def fault_of(self, weight: Tensor) -> str | None:
        """Why the stored weight, after sharing, has no codes; None if it has."""
        if not any(isinstance(each, Guarded) for each in self.quantizers.values()):
            return None
        for transform in self.sharing:
            weight = transform(weight)
        faults = (each.fault(part) for each, part in self._quantized_parts(weight) if isinstance(each, Guarded))
        return next(filter(None, faults), None)

    def _quantized_parts(self, weight: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
        sizes = [size for _, size in self.layout.parts] or weight.shape[-2]
        return zip(self.quantizers.values(), weight.split(sizes, dim=-2), strict=True)


class Sites(nn.Module):
    """Base of the modules that have sites: `sites` says which child is the site of which parameter."""

    sites: ClassVar[Mapping[str, str]] = {"weight": "site"}

    def site_of(self, parameter: str) -> Site:
        site = self.get_submodule(self.sites[parameter])
        assert isinstance(site, Site)
        return site

    def effective(self, parameter: str = "weight") -> Tensor:
        """The weight that the module computes with."""
        return self.site_of(parameter)(getattr(self, parameter))

    def read(self, x: Tensor, parameter: str = "weight") -> Tensor:
        """What the product with a parameter reads of its input: one call serves all matrices of one role that read the
        same input."""
        return self.site_of(parameter).input(x)


class Stateless(nn.Module):
    """Wraps a quantizer that is a function."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        return self.quantizer.fake_quantize(weight)


@dataclass(frozen=True, slots=True)
class NamedSite:
    """A `WeightSite` (see `penstock.hooks.contracts`) of a model: the site and the module that holds its parameter."""

    name: str
    owner: Sites
    parameter: str
    site: Site

    @property
    def role(self) -> ParameterRole:
        return self.site.role

    @property
    def layout(self) -> ParameterLayout:
        return self.site.layout

    @property
    def weight(self) -> Tensor:
        return getattr(self.owner, self.parameter)

    def add(self, transform: nn.Module) -> str:
        self.site.sharing.append(transform)
        return f"{self.name}.sharing.{len(self.site.sharing) - 1}"

    def adapt(self, transform: nn.Module) -> str:
        self.site.uses.append(transform)
        return f"{self.name}.uses.{len(self.site.uses) - 1}"

    @property
    def adapted(self) -> bool:
        return len(self.site.uses) > 0

    def effective(self) -> Tensor:
        return self.owner.effective(self.parameter)

    def shared(self) -> Tensor:
        return self.site.shared(self.weight)

    def to_pack(self) -> dict[str, tuple[Tensor, nn.Module]]:
        weight = self.weight
        for transform in self.site.sharing:
            weight = transform(weight)
        matrices = self.layout.matrices(weight)
        return {matrix: (matrices[matrix], quantizer) for matrix, quantizer in self.site.quantizers.items()}

    def multiply_by(self, products: Mapping[str, Product]) -> None:
        self.site.product = _side_by_side([products[matrix] for matrix in self.layout.shapes(tuple(self.weight.shape))])
        setattr(self.owner, self.parameter, nn.Parameter(self.weight.detach().to("meta"), requires_grad=False))

    def quantizer_state(self) -> dict[str, Tensor]:
        return self.site.quantizers.state_dict()

    def load_quantizer_state(self, state: Mapping[str, Tensor]) -> None:
        self.site.quantizers.load_state_dict(dict(state))

    def quantize(self, quantizer: Quantizer | SiteQuantizer) -> None:
        for matrix, shape in self.layout.shapes(tuple(self.weight.shape)).items():
            self.site.quantizers[matrix] = _module_of(quantizer, shape, self.role)
        if isinstance(quantizer, QuantizesInput) and quantizer.input_bits is not None:
            self.site.reads = quantizer

    @torch.no_grad()
    def fault(self) -> str | None:
        return self.site.fault_of(self.weight)


@runtime_checkable
class Table(Protocol):
    """A module whose weight [V, D] can become a table [V, R] with a `projection`, which has a site of its own."""

    projection: Any

    def factorise(self, rank: int) -> None: ...

    def whole(self) -> Tensor:
        """[V, D], multiplied out."""
        ...


@dataclass(frozen=True, slots=True)
class TableSite(NamedSite):
    """A `FactorisableSite`: that of an embedding or a head."""

    def factorise(self, rank: int, storage: StoragePlan) -> dict[str, ParameterRole]:
        assert isinstance(self.owner, Table)
        self.owner.factorise(rank)
        path = self.name.rpartition(".")[0]
        projection = {f"{path}.{name}": site for name, site in sites_of(self.owner).items() if site.owner != self.owner}
        for site in (self, *projection.values()):
            if (quantizer := storage.formats.get(site.role)) is not None:
                site.quantize(quantizer)
        return {name: site.role for name, site in projection.items()}

    @property
    def whole(self) -> tuple[int, int] | None:
        projection = getattr(self.owner, "projection", None)
        if projection is None:
            return None
        rows, rank = self.weight.shape
        return rows, projection.weight.numel() // rank


def _side_by_side(products: Sequence[Product]) -> Product:
    """Of the matrices of a fused tensor."""
    if len(products) == 1:
        return products[0]
    return lambda x, counts=None: torch.cat([product(x, counts) for product in products], dim=-1)


def sites_of(module: nn.Module) -> dict[str, NamedSite]:
    """The sites below a module by the name of the parameter. `Table` is known by a method: see `_unpublished`."""
    return {
        _under(path, parameter): (TableSite if hasattr(owner, "factorise") else NamedSite)(
            _under(path, child), owner, parameter, getattr(owner, child)
        )
        for path, owner in module.named_modules()
        if isinstance(owner, Sites)
        for parameter, child in owner.sites.items()
    }


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def unpublished(module: nn.Module) -> str | None:
    """What sharing added below a module that no published architecture has; None if nothing."""
    return next((each.unpublished for _, each in _unpublished(module)), None)


def quantize(module: nn.Module, plan: StoragePlan) -> None:
    """Puts into each site the plan's quantizer for its role."""
    for site in sites_of(module).values():
        if (quantizer := plan.formats.get(site.role)) is not None:
            site.quantize(quantizer)


def layouts_in(module: nn.Module) -> dict[str, ParameterLayout]:
    """Layouts of the parameters below a module that hold more than one matrix."""
    return {name: site.layout for name, site in sites_of(module).items() if site.layout.parts}


def own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Named parameters except those that sites and sharing added."""
    added = _prefixes(module)
    return ((name, each) for name, each in module.named_parameters() if not name.startswith(added))


def own_state(module: nn.Module) -> dict[str, Any]:
    """The state without tensors that sites and sharing added: the part that checkpoint layouts have names for."""
    added = _prefixes(module)
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(added)}


def load_own_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Inverse of `own_state`; names and shapes have been checked."""
    module.load_state_dict(dict(state), strict=False)


def _prefixes(module: nn.Module) -> tuple[str, ...]:
    added = (path for path, _ in _unpublished(module))
    return (*(f"{site.name}." for site in sites_of(module).values()), *(f"{path}." for path in added))


def _unpublished(module: nn.Module) -> Iterator[tuple[str, Unpublished]]:
    """Each `Unpublished` module with its path. Python takes 20 µs to compare a module with a protocol, and a checkpoint
    that is written beside training stalls it for that."""
    for path, each in module.named_modules():
        if hasattr(each, "unpublished"):
            yield path, cast(Unpublished, each)


def _module_of(quantizer: Quantizer | SiteQuantizer, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
    return quantizer.site(shape, role) if isinstance(quantizer, SiteQuantizer) else Stateless(quantizer)
