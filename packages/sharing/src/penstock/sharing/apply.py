"""Applies sharing strategies of either contract to a model, and keeps a record of what they did and added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from penstock.hooks.contracts import (
    LanguageModel,
    ParameterRole,
    SharedGroup,
    SharedParameters,
    SharingPlan,
    SharingStrategy,
    Sited,
    SiteSharing,
)
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.difference import shared_group
from penstock.sharing.plan import combine, share


@dataclass(frozen=True, slots=True)
class PlanOnly:
    """The result of a strategy of contract 1: names that are one tensor, and nothing added."""

    plan: SharingPlan
    groups: tuple[SharedGroup, ...] = ()

    def roles(self) -> dict[str, ParameterRole]:
        return {}

    def stored_state(self) -> dict[str, Tensor]:
        return {}

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        check_stored(state, {})

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        pass

    def hardened(self) -> None:
        return None

    def report(self) -> tuple[SharedGroup, ...]:
        return self.groups


@dataclass(frozen=True, slots=True)
class Together:
    """The combined result of several strategies. `plan` has the groups of all."""

    plan: SharingPlan
    parts: tuple[SharedParameters, ...] = ()

    def roles(self) -> dict[str, ParameterRole]:
        return {name: role for part in self.parts for name, role in part.roles().items()}

    def stored_state(self) -> dict[str, Tensor]:
        """Names prefixed with the position of their strategy."""
        return {
            f"{index}.{name}": tensor
            for index, part in enumerate(self.parts)
            for name, tensor in part.stored_state().items()
        }

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        check_stored(state, self.stored_state())
        for index, part in enumerate(self.parts):
            prefix = f"{index}."
            part.load_stored_state({n.removeprefix(prefix): each for n, each in state.items() if n.startswith(prefix)})

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        for part in self.parts:
            part.end_step(progress, total)

    def hardened(self) -> SharingPlan | None:
        learned = [part.hardened() for part in self.parts]
        if all(each is None for each in learned):
            return None
        return combine([each or part.plan for each, part in zip(learned, self.parts, strict=True)])

    def report(self) -> tuple[SharedGroup, ...]:
        return tuple(group for part in self.parts for group in part.report())


def apply_sharing(
    model: LanguageModel, strategies: Sequence[SharingStrategy | SiteSharing], seed: int = 0
) -> SharedParameters:
    """Applies the strategies to the model. Raises `ProblemError` for names that two strategies claim, and for a
    strategy that needs weight sites in a model without them; the model must not be used after that."""
    parameters = dict(cast(nn.Module, model).named_parameters())
    parts = [_applied(model, parameters, strategy, seed, f"model.sharing.{i}") for i, strategy in enumerate(strategies)]
    plan = combine([part.plan for part in parts])
    share(cast(nn.Module, model), plan)
    return Together(plan, tuple(parts))


def check_stored(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises `ProblemError` with every stored tensor that is missing, unknown or of another shape."""
    missing = sorted(own.keys() - state.keys())
    problems = [Problem("bad-checkpoint", f"sharing tensor '{name}' is missing") for name in missing]
    for name, tensor in state.items():
        if name not in own:
            problems.append(Problem("bad-checkpoint", f"unknown sharing tensor '{name}'"))
        elif tensor.shape != own[name].shape:
            what = (
                f"sharing tensor '{name}' has shape {list(tensor.shape)}, but the model expects {list(own[name].shape)}"
            )
            problems.append(Problem("bad-checkpoint", what))
    if problems:
        raise ProblemError(problems)


def _applied(
    model: LanguageModel,
    parameters: Mapping[str, nn.Parameter],
    strategy: SharingStrategy | SiteSharing,
    seed: int,
    where: str,
) -> SharedParameters:
    if not isinstance(strategy, SiteSharing):
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        plan = strategy.plan(model.parameter_roles(), shapes)
        return PlanOnly(plan, tuple(_reported(plan, parameters)))
    if isinstance(model, Sited):
        return strategy.apply(cast(Any, model).weight_sites(), seed)
    what = f"{type(strategy).__name__} transforms weights on use, which {type(model).__name__} does not support"
    fix = "use an architecture with weight sites, such as glm-moe, or a strategy that only ties weights"
    raise ProblemError(Problem("unsupported", what, where, fix))


def _reported(plan: SharingPlan, parameters: Mapping[str, nn.Parameter]) -> list[SharedGroup]:
    """The groups of a plan that can be applied; `share` raises for the others."""
    found = [(group, [parameters.get(name) for name in group]) for group in plan.groups]
    whole = [(group, [each for each in weights if each is not None]) for group, weights in found]
    return [
        shared_group(group, weights)
        for group, weights in whole
        if len(weights) == len(group) and len({weight.shape for weight in weights}) == 1
    ]
