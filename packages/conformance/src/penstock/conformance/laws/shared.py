# pyright: basic
"""The model that laws of sharing strategies are held with: as roles and shapes, as weight sites, and as a module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.conformance.law import NotApplicable, Subject
from penstock.hooks.contracts import ParameterLayout, ParameterRole, Shareable, SharingPlan, StoragePlan
from penstock.hooks.problems import Problem, ProblemError

Roles = dict[str, ParameterRole]
Shapes = dict[str, tuple[int, ...]]
WITH_SITES = (ParameterRole.MATRIX, ParameterRole.EXPERT, ParameterRole.EMBEDDING, ParameterRole.HEAD)


def planned(subject: Subject, strategy: Any, roles: Roles, shapes: Shapes) -> SharingPlan:
    """The plan for such a model: of contract 1 by `plan`, of 2 by `apply`, from 3 on by `share`."""
    if subject.component.contract < 2:
        return strategy.plan(roles, shapes)
    if subject.component.contract < 3:
        return strategy.apply(sites_of(roles, shapes), 0).plan
    return shared_by(strategy, Drawn.of(roles, shapes), 0).plan


def applied(subject: Subject, seed: int = 0, draw: int = 0) -> tuple[Any, dict[str, Any]]:
    """What the strategy did to the transformer, and its sites; `NotApplicable` for a component of contract 1."""
    if subject.component.contract < 2:
        raise NotApplicable("the component is of contract 1")
    if subject.component.contract < 3:
        sites = sites_of(*transformer(), seed=draw)
        return subject.build().apply(sites, seed), sites
    drawn = Drawn.of(*model_of(subject), seed=draw)
    return shared_by(subject.build(), drawn, seed), drawn.sites


def shared_by(strategy: Any, drawn: Drawn, seed: int) -> Both:
    added = strategy.restructure(drawn.shareable({}), seed)
    return Both(added, strategy.share(drawn.shareable(added.roles), seed))


@dataclass(frozen=True, slots=True)
class Both:
    """What a strategy of contract 3 added and shared, as `SharedParameters`."""

    added: Any
    shared: Any

    @property
    def plan(self) -> SharingPlan:
        return self.shared.plan

    def roles(self) -> Roles:
        return {**self.added.roles, **self.shared.roles()}

    def stored_state(self) -> dict[str, Any]:
        return {**{name: each.detach() for name, each in self.added.beside.items()}, **self.shared.stored_state()}

    def load_stored_state(self, state: Mapping[str, Any]) -> None:
        import torch

        if missing := sorted(self.added.beside.keys() - state.keys()):  # as an application does
            raise ProblemError(Problem("bad-checkpoint", f"sharing tensor '{missing[0]}' is missing"))
        own = {name: each for name, each in state.items() if name in self.added.beside}
        self.shared.load_stored_state({name: each for name, each in state.items() if name not in own})
        with torch.no_grad():
            for name, each in own.items():
                self.added.beside[name].copy_(each)

    def report(self) -> Any:
        return self.shared.report()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A module that has parameters of these roles and shapes, and computes nothing."""

    module: Any
    roles: Roles
    sites: dict[str, Any]

    @classmethod
    def of(cls, roles: Roles, shapes: Shapes, seed: int = 0) -> Drawn:
        import torch

        generator = torch.Generator().manual_seed(seed)
        module = torch.nn.Module()
        for name in roles:
            owner, attribute = _owner(module, name)
            owner.register_parameter(attribute, torch.nn.Parameter(torch.randn(shapes[name], generator=generator)))
        sites = {name: HeldSite(name, role, module) for name, role in roles.items() if role in WITH_SITES}
        return cls(module, dict(roles), sites)

    def shareable(self, added: Roles) -> Shareable:
        roles = {**self.roles, **added}
        return Shareable(self.module, dict(self.module.named_parameters()), roles, {}, self.sites, StoragePlan())


def _owner(module: Any, name: str) -> tuple[Any, str]:
    """The module of a parameter, made if it is missing, and the parameter's name in it."""
    import torch

    *path, attribute = name.split(".")
    for each in path:
        if not hasattr(module, each):
            module.add_module(each, torch.nn.Module())
        module = getattr(module, each)
    return module, attribute


def sites_of(roles: Roles, shapes: Shapes, seed: int = 0) -> dict[str, Any]:
    """Weight sites with drawn weights, for the roles that have them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {
        name: DrawnSite(name, roles[name], torch.nn.Parameter(torch.randn(shapes[name], generator=generator)))
        for name in roles
        if roles[name] in WITH_SITES
    }


class DrawnSite:
    """A `WeightSite` of a parameter that no model has."""

    def __init__(self, name: str, role: ParameterRole, weight: Any) -> None:
        self.name, self.role, self.weight, self.layout = name, role, weight, ParameterLayout()
        self.added: list[Any] = []

    def add(self, transform: Any) -> str:
        self.added.append(transform)
        return f"{self.name}.site.{len(self.added) - 1}"

    def effective(self) -> Any:
        weight = self.weight
        for transform in self.added:
            weight = transform(weight)
        return weight

    def added_parameters(self) -> dict[str, Any]:
        return {
            f"{self.name}.site.{index}.{name}": parameter
            for index, transform in enumerate(self.added)
            for name, parameter in transform.named_parameters()
        }

    def quantizer_state(self) -> dict[str, Any]:
        return {}

    def load_quantizer_state(self, state: Any) -> None:
        assert not state


class HeldSite(DrawnSite):
    """A site of a parameter that a module holds, with what strategies of contract 3 may ask for."""

    def __init__(self, name: str, role: ParameterRole, module: Any) -> None:
        owner, self.attribute = _owner(module, name)
        self.owner = owner
        super().__init__(name, role, None)
        self.children = f"{self.attribute}_added"

    @property
    def weight(self) -> Any:
        return getattr(self.owner, self.attribute)

    @weight.setter
    def weight(self, value: Any) -> None:
        """The owner has it."""

    def add(self, transform: Any) -> str:
        import torch

        self.added.append(transform)
        if not hasattr(self.owner, self.children):
            self.owner.add_module(self.children, torch.nn.ModuleList())
        getattr(self.owner, self.children).append(transform)
        path = self.name.rpartition(".")[0]
        return f"{path}.{self.children}.{len(self.added) - 1}"

    adapt = add  # there is no quantizer between the two

    @property
    def adapted(self) -> bool:
        return len(self.added) > 0

    def shared(self) -> Any:
        return self.weight

    whole = None  # nothing is read of what `factorise` makes

    def factorise(self, rank: int, storage: StoragePlan) -> Roles:
        import torch

        width = self.weight.shape[1]
        setattr(self.owner, self.attribute, torch.nn.Parameter(self.weight.detach()[:, :rank].clone()))
        self.owner.register_parameter("projection", torch.nn.Parameter(torch.eye(width, rank)))
        return {f"{self.name.rpartition('.')[0]}.projection": ParameterRole.MATRIX}

    def added_parameters(self) -> dict[str, Any]:
        path = self.name.rpartition(".")[0]
        return {
            f"{path}.{self.children}.{index}.{name}": parameter
            for index, transform in enumerate(self.added)
            for name, parameter in transform.named_parameters()
        }


def model_of(subject: Subject, layers: int = 4) -> tuple[Roles, Shapes]:
    """The transformer; for a strategy of contract 3 one of an encoder and a decoder."""
    roles, shapes = transformer(layers)
    if subject.component.contract < 3:
        return roles, shapes
    return _both_stacks(roles), _both_stacks(shapes)


def _both_stacks(values: Mapping[str, Any]) -> dict[str, Any]:
    stacks = {
        f"{stack}.{name}": value
        for stack in ("encoder", "decoder")
        for name, value in values.items()
        if name.startswith("layers.")
    }
    return {name: value for name, value in values.items() if not name.startswith("layers.")} | stacks


def transformer(layers: int = 4) -> tuple[Roles, Shapes]:
    """Roles and shapes of a model with every role, whose layers and embeddings are alike.

    The embedding has the shape of the head, the norms the shape of the output biases, and the router the shape of one
    projection, so that shapes alone do not tell what may be shared.
    """
    parameters: dict[str, tuple[ParameterRole, tuple[int, ...]]] = {
        "embed_tokens.weight": (ParameterRole.EMBEDDING, (64, 8)),
        "norm.weight": (ParameterRole.NORM, (8,)),
    }
    for layer in range(layers):
        parameters |= {
            f"layers.{layer}.norm.weight": (ParameterRole.NORM, (8,)),
            f"layers.{layer}.self_attn.q_proj.weight": (ParameterRole.MATRIX, (8, 8)),
            f"layers.{layer}.self_attn.o_proj.weight": (ParameterRole.MATRIX, (8, 8)),
            f"layers.{layer}.self_attn.o_proj.bias": (ParameterRole.BIAS, (8,)),
            f"layers.{layer}.mlp.gate.weight": (ParameterRole.ROUTER, (16, 8)),
            f"layers.{layer}.mlp.up_proj.weight": (ParameterRole.MATRIX, (16, 8)),
            f"layers.{layer}.mlp.down_proj.weight": (ParameterRole.MATRIX, (8, 16)),
            f"layers.{layer}.mlp.experts.up_proj": (ParameterRole.EXPERT, (16, 4, 8)),
        }
    parameters["lm_head.weight"] = (ParameterRole.HEAD, (64, 8))
    return {name: role for name, (role, _) in parameters.items()}, {name: s for name, (_, s) in parameters.items()}
