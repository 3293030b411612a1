"""What the config of every architecture has in common: which components stand inside the model.

An architecture's schema extends `ArchitectureSettings`, so `model.router` and its kin read the same for all of them.
The application builds these components and hands them over (`make_router`, `quantizer`); the fields that the schema
adds are the keyword arguments of the architecture's target.
Per-layer composition is collect, check, apply: two owners of one layer are an error that names both.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Annotated, TypeAlias

from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.hooks.schema import OfKind, Schema

RouterChoice: TypeAlias = Annotated[Choice, OfKind("router")]
BalanceChoice: TypeAlias = Annotated[Choice, OfKind("balance-loss", "balancer")]
SharingChoice: TypeAlias = Annotated[Choice, OfKind("sharing")]
QuantizerChoice: TypeAlias = Annotated[Choice, OfKind("quantizer")]


class LayerOverride(Schema):
    """Other components for some layers."""

    match: str
    """Which layers, as a pattern over names such as `layers.12.mlp`: `layers.1[0-9].mlp`."""
    router: RouterChoice
    """The router of these layers."""


class ArchitectureSettings(Schema):
    """Base of the config schemas of architectures."""

    router: RouterChoice | None = None
    """Chooses the experts of each token. Needed where the model has mixture-of-experts layers."""
    balance: list[BalanceChoice] = []
    """Losses and balancers that keep the expert load even, applied together."""
    sharing: list[SharingChoice] = []
    """Strategies that let several parameters be one tensor."""
    quantizer: QuantizerChoice | None = None
    """The low-precision weight format to train for; null trains plain weights."""
    overrides: list[LayerOverride] = []
    """Other components for some layers; a layer may be claimed once."""


def layer_routers(settings: ArchitectureSettings, layers: Iterable[int]) -> dict[int, Choice]:
    """The router of each mixture-of-experts layer; raises `ProblemError` with every conflict and every pattern that
    matches nothing."""
    names = {layer: f"layers.{layer}.mlp" for layer in layers}
    claims: dict[int, list[int]] = {layer: [] for layer in names}
    problems: list[Problem] = []
    for position, override in enumerate(settings.overrides):
        matched = [layer for layer, name in names.items() if fnmatch.fnmatchcase(name, override.match)]
        if not matched:
            known = f"layers with experts are {', '.join(names.values())}" if names else "the model has no experts"
            where = f"model.overrides.{position}"
            problems.append(Problem("no-match", f"'{override.match}' matches no layer", where, known))
        for layer in matched:
            claims[layer].append(position)
    for layer, owners in claims.items():
        if len(owners) > 1:
            both = " and ".join(f"model.overrides.{i} ('{settings.overrides[i].match}')" for i in owners)
            what = f"the router of {names[layer]} is set by {both}"
            problems.append(Problem("override-conflict", what, "model.overrides", "narrow their patterns"))
    default = settings.router
    if names and default is None:
        example = "write for example `router: {use: sigmoid-topk, k: 2}`"
        problems.append(Problem("missing-field", "the model has experts and no router", "model.router", example))
    if problems:
        raise ProblemError(problems)
    chosen = {layer: settings.overrides[owners[0]].router for layer, owners in claims.items() if owners}
    return chosen if default is None else {layer: chosen.get(layer, default) for layer in names}
