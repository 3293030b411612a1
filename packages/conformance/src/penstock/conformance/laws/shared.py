# pyright: basic
"""The model that laws of sharing strategies are held with, as roles and shapes and as weight sites."""

from __future__ import annotations

from typing import Any

from penstock.conformance.law import NotApplicable, Subject
from penstock.hooks.contracts import ParameterLayout, ParameterRole, SharingPlan

Roles = dict[str, ParameterRole]
Shapes = dict[str, tuple[int, ...]]
WITH_SITES = (ParameterRole.MATRIX, ParameterRole.EXPERT, ParameterRole.EMBEDDING, ParameterRole.HEAD)


def planned(subject: Subject, strategy: Any, roles: Roles, shapes: Shapes) -> SharingPlan:
    """The plan for such a model: of contract 1 by `plan`, from 2 on by `apply`."""
    if subject.component.contract < 2:
        return strategy.plan(roles, shapes)
    return strategy.apply(sites_of(roles, shapes), 0).plan


def applied(subject: Subject, seed: int = 0, draw: int = 0) -> tuple[Any, dict[str, Any]]:
    """What the strategy did to the transformer, and its sites; `NotApplicable` for a component of contract 1."""
    if subject.component.contract < 2:
        raise NotApplicable("the component is of contract 1")
    sites = sites_of(*transformer(), seed=draw)
    return subject.build().apply(sites, seed), sites


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
