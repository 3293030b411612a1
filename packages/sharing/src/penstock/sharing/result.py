"""What sharing strategies return: a plan, and the parameters that they added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import AddedParameters, ParameterRole, SharedGroup, SharedParameters, SharingPlan
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.plan import combine


def _nothing_added() -> dict[str, Tensor]:
    return {}


class InModules(Mapping[str, Tensor]):
    """Parameters by their name in the model, looked up whenever they are asked for: a training engine that cuts
    parameters puts others in their place. `places` has for each the module and its name there."""

    def __init__(self, places: Mapping[str, tuple[nn.Module, str]]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> Tensor:
        module, own = self._places[name]
        return module.get_parameter(own)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class Shared:
    """The result of a strategy that learns no plan. `added` are its parameters by their name in the model; they are
    gains and the like, which have the role of norms."""

    plan: SharingPlan
    groups: tuple[SharedGroup, ...] = ()
    added: Mapping[str, Tensor] = field(default_factory=_nothing_added)

    def roles(self) -> dict[str, ParameterRole]:
        return dict.fromkeys(self.added, ParameterRole.NORM)

    def stored_state(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.added.items()}

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        load_stored(state, self.added)

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        pass

    def hardened(self) -> SharingPlan | None:
        return None

    def report(self) -> tuple[SharedGroup, ...]:
        return self.groups


class SharedAcross(Shared):
    """Groups across stacks of layers: what is shared within a stack joins the group of its partner."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Restructured:
    """What a strategy shared and what it added to the model before."""

    shared: SharedParameters
    added: AddedParameters

    @property
    def plan(self) -> SharingPlan:
        return self.shared.plan

    def roles(self) -> dict[str, ParameterRole]:
        return {**self.added.roles, **self.shared.roles()}

    def stored_state(self) -> dict[str, Tensor]:
        return {**{name: each.detach() for name, each in self.added.beside.items()}, **self.shared.stored_state()}

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        check_stored(state, self.stored_state())
        load_stored({name: state[name] for name in self.added.beside}, self.added.beside)
        self.shared.load_stored_state({name: each for name, each in state.items() if name not in self.added.beside})

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        self.shared.end_step(progress, total)

    def hardened(self) -> SharingPlan | None:
        return self.shared.hardened()

    def report(self) -> Sequence[SharedGroup]:
        return self.shared.report()


@dataclass(frozen=True, slots=True)
class Together:
    """The combined result of several strategies. `owners` name them in errors; the groups of those in `across` join
    the groups of others."""

    parts: tuple[SharedParameters, ...] = ()
    owners: tuple[str, ...] | None = None
    across: frozenset[int] = frozenset()

    @property
    def plan(self) -> SharingPlan:
        """The groups of all."""
        return self._combined([part.plan for part in self.parts])

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
        return self._combined([each or part.plan for each, part in zip(learned, self.parts, strict=True)])

    def report(self) -> tuple[SharedGroup, ...]:
        return tuple(group for part in self.parts for group in part.report())

    def _combined(self, plans: list[SharingPlan]) -> SharingPlan:
        return combine(plans, self.owners, self.across)


def load_stored(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Copies a stored state into the tensors of the same names; raises `ProblemError` as `check_stored`."""
    check_stored(state, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


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
