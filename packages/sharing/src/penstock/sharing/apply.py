"""Applies sharing strategies of every contract to a model, and keeps a record of what they did and added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias, cast

from torch import nn

from penstock.hooks.contracts import (
    AddedParameters,
    LaidOut,
    LanguageModel,
    ModelSharing,
    ParameterRole,
    Shareable,
    SharedParameters,
    SharingPlan,
    SharingStrategy,
    Sited,
    SiteSharing,
    StoragePlan,
    WeightSite,
)
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.difference import reported
from penstock.sharing.plan import share
from penstock.sharing.result import Restructured, Shared, SharedAcross, Together
from penstock.sharing.roles import roles_of

Strategy: TypeAlias = SharingStrategy | SiteSharing | ModelSharing


def apply_sharing(
    model: LanguageModel,
    strategies: Sequence[Strategy],
    seed: int = 0,
    storage: StoragePlan | None = None,
    *,
    owners: Sequence[str] | None = None,
    given_weights: bool = False,
) -> SharedParameters:
    """Applies the strategies to the model; their order does not matter. Raises `ProblemError` for names that two
    strategies claim, and for a strategy that needs weight sites in a model without them; the model must not be used
    after that.

    `storage` has the quantizers that the model was built with. `owners` name the strategies in errors. With
    `given_weights` the model only gets the modules that the strategies give it: nothing is shared, because the weights
    come from a file that says what is one tensor.
    """
    known = storage or StoragePlan()
    names = owners or [type(strategy).__name__ for strategy in strategies]
    return _apply(lambda added: shareable(model, known, added), strategies, seed, names, given_weights=given_weights)


def share_module(
    module: nn.Module, strategies: Sequence[Strategy], roles: Mapping[str, ParameterRole] | None = None, seed: int = 0
) -> SharedParameters:
    """As `apply_sharing`, for a module of any library, such as a `BertModel` or a T5 of transformers; None reads the
    roles off the types of its modules (see `penstock.sharing.roles`)."""

    def described(added: Mapping[str, ParameterRole]) -> Shareable:
        own = roles_of(module) if roles is None else roles
        return Shareable(module, dict(module.named_parameters()), {**own, **added}, {}, {}, StoragePlan())

    return _apply(described, strategies, seed, [type(strategy).__name__ for strategy in strategies])


def _apply(
    described: Callable[[Mapping[str, ParameterRole]], Shareable],
    strategies: Sequence[Strategy],
    seed: int,
    names: Sequence[str],
    *,
    given_weights: bool = False,
) -> SharedParameters:
    placed = [(f"model.sharing.{index}", strategy) for index, strategy in enumerate(strategies)]
    added: list[AddedParameters] = []
    for where, strategy in placed:
        added.append(_restructured(described(_roles(added)), strategy, seed, where))
    if given_weights:
        return Together(tuple(Restructured(Shared(SharingPlan()), each) for each in added))
    known = described(_roles(added))
    parts = [_shared(known, strategy, seed, where) for where, strategy in placed]
    together = Together(
        tuple(Restructured(part, each) if each.roles else part for part, each in zip(parts, added, strict=True)),
        tuple(f"{where} ({name})" for (where, _), name in zip(placed, names, strict=True)),
        frozenset(index for index, part in enumerate(parts) if isinstance(part, SharedAcross)),
    )
    share(known.module, together.plan)
    return together


def shareable(
    model: LanguageModel, storage: StoragePlan, added_roles: Mapping[str, ParameterRole] | None = None
) -> Shareable:
    """What strategies of contract 3 see of a model."""
    return Shareable(
        module=model,
        parameters=dict(cast(nn.Module, model).named_parameters()),
        roles={**model.parameter_roles(), **(added_roles or {})},
        layouts=cast(Any, model).parameter_layout() if isinstance(model, LaidOut) else {},
        sites=_sites(model),
        storage=storage,
    )


def _sites(model: LanguageModel) -> Mapping[str, WeightSite]:
    return cast(Any, model).weight_sites() if isinstance(model, Sited) else {}


def _roles(added: Sequence[AddedParameters]) -> dict[str, ParameterRole]:
    return {name: role for each in added for name, role in each.roles.items()}


def _restructured(model: Shareable, strategy: Strategy, seed: int, where: str) -> AddedParameters:
    with _placed(where):
        return strategy.restructure(model, seed) if isinstance(strategy, ModelSharing) else AddedParameters()


def _shared(model: Shareable, strategy: Strategy, seed: int, where: str) -> SharedParameters:
    with _placed(where):
        if isinstance(strategy, ModelSharing):
            return strategy.share(model, seed)
        if not isinstance(strategy, SiteSharing):
            plan = strategy.plan(model.roles, model.shapes)
            return Shared(plan, reported(plan, model.parameters))
        if model.sites:
            return strategy.apply(model.sites, seed)
    what = f"{type(strategy).__name__} transforms weights on use, which {type(model.module).__name__} does not support"
    fix = "use an architecture with weight sites, such as glm-moe, or a strategy that only ties weights"
    raise ProblemError(Problem("unsupported", what, where, fix))


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Problems inside say where in the config their strategy stands."""
    try:
        yield
    except ProblemError as error:
        raise ProblemError([replace(problem, where=where) for problem in error.problems], error.exit_code) from error
