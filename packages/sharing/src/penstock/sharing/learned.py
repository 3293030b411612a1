"""Which layers are one is learned: a soft assignment of layers to a few sets of weights, annealed until it is hard.

Each layer computes with the mean of the sets, weighted by a softmax of its logits. While the temperature falls, one set
takes over; then the layer's parameters become those of that set, and what trains on is an ordinary plan. Only the sets
are parameters from the first step on, so the budget holds throughout.

Shape suffixes: L layers, N sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import (
    AddedParameters,
    ParameterRole,
    Shareable,
    SharedGroup,
    SharedParameters,
    SharingPlan,
    WeightSite,
)
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.config import Temperature
from penstock.sharing.difference import reported
from penstock.sharing.layers import Pattern, Selection, unequal
from penstock.sharing.parts import Part, places_of
from penstock.sharing.result import check_stored

# A layer begins with its own set in the lead: at temperature 1 and four sets it has 0.71 of the weight.
LEAD = 2.0
NOISE = 0.01  # of the logits at the start, so that no two layers are bound to stay alike


class Assignment(nn.Module):
    """Logits of L layers for N sets, and the temperature of their softmax."""

    temperature: Tensor

    def __init__(self, logits_LN: Tensor, temperature: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_LN)
        value = torch.tensor(temperature, dtype=torch.float64, device=logits_LN.device)
        self.register_buffer("temperature", value)

    def weights(self, row: int) -> Tensor:
        return (self.logits[row] / self.temperature.to(self.logits.dtype)).softmax(dim=-1)


class Mixture(nn.Module):
    """Takes the place of one layer's weight: the mean of the sets. `own` keeps the assignment as a child, which only
    one of its uses does; sets are the sites of other layers, and stay theirs."""

    def __init__(self, assignment: Assignment, row: int, sets: Sequence[WeightSite], *, own: bool) -> None:
        super().__init__()
        self.row = row
        self.assignment = assignment if own else None
        self._used: tuple[Assignment, tuple[WeightSite, ...]] | None = (assignment, tuple(sets))

    def forward(self, weight: Tensor) -> Tensor:
        if self._used is None:
            return weight
        assignment, sets = self._used
        weight_N = assignment.weights(self.row).to(weight.dtype).unbind()
        return torch.stack([share * each.weight for share, each in zip(weight_N, sets, strict=True)]).sum(dim=0)

    def end(self) -> None:
        """From now on the weight is the layer's own."""
        self._used = self.assignment = None


@dataclass(frozen=True, slots=True)
class Alike:
    """Layers that have the same parameters: `names` by layer for each of them, in the order of `layers`."""

    layers: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]

    def groups(self, choice: Sequence[int]) -> list[tuple[str, ...]]:
        """The names of the layers that chose the same set."""
        sets = [[at for at, chosen in enumerate(choice) if chosen == each] for each in dict.fromkeys(choice)]
        return [tuple(names[at] for at in each) for names in self.names for each in sets if len(each) > 1]


class LearnedSharing:
    """Learns to share the parts (None: all matrices and experts) of the layers, with at most `budget` that differ.
    Layers with other parameters, such as dense ones beside those of experts, are shared among themselves."""

    def __init__(
        self, budget: int, parts: Sequence[Part] | None = None, temperature: Temperature | None = None
    ) -> None:
        self.budget = budget
        self.selection = Selection(None if parts is None else frozenset(parts))
        self.temperature = temperature or Temperature()

    def restructure(self, model: Shareable, seed: int) -> AddedParameters:
        return AddedParameters()

    def share(self, model: Shareable, seed: int) -> SharedParameters:
        alike = [each for each in self._alike(model) if len(each.layers) > self.budget]
        self._require(model, alike)
        pattern = Pattern("sequential", distinct=self.budget)
        generator = torch.Generator().manual_seed(seed)
        learned = [self._soft(model, each, pattern, generator) for each in alike]
        plan = SharingPlan(tuple(group for each in learned for group in each.first_groups))
        groups = reported(plan, model.parameters)
        return LearnedPlan(model.module, self.temperature, learned, plan, groups)

    def _alike(self, model: Shareable) -> list[Alike]:
        places = places_of(model.roles, model.layouts)
        if problems := list(self.selection.problems(places)):
            raise ProblemError(problems)
        found: dict[tuple[str | None, str], dict[int, str]] = {}
        for name, place in places.items():
            if self.selection.takes(place, model.roles[name]) and place.layer is not None:
                found.setdefault((place.stack, place.rest), {})[place.layer] = name
        sets: dict[tuple[str | None, tuple[int, ...]], list[tuple[str, ...]]] = {}
        for (stack, _), names in found.items():
            layers = tuple(sorted(names))
            sets.setdefault((stack, layers), []).append(tuple(names[layer] for layer in layers))
        return [Alike(layers, tuple(names)) for (_, layers), names in sets.items()]

    def _require(self, model: Shareable, alike: Sequence[Alike]) -> None:
        everything = SharingPlan(tuple(names for each in alike for names in each.names))
        problems = list(unequal(model, everything))
        if not everything.groups:
            what = f"no more than {self.budget} layers have the same parameters, so a budget of {self.budget} holds"
            problems.append(Problem("cannot-tie", what, "", "lower `budget`, or remove the strategy"))
        if missing := [name for group in everything.groups for name in group if name not in model.sites]:
            what = f"{type(model.module).__name__} has no weight site for '{missing[0]}'"
            problems.append(Problem("unsupported", what, "", "use an architecture with weight sites, such as glm-moe"))
        if problems:
            raise ProblemError(problems)

    def _soft(self, model: Shareable, alike: Alike, pattern: Pattern, generator: torch.Generator) -> Learned:
        chunks = pattern.of(range(len(alike.layers)))
        choice = [next(at for at, chunk in enumerate(chunks) if layer in chunk) for layer in range(len(alike.layers))]
        first = model.sites[alike.names[0][0]].weight
        lead_LN = LEAD * torch.nn.functional.one_hot(torch.tensor(choice), len(chunks))
        logits_LN = lead_LN + NOISE * torch.randn(lead_LN.shape, generator=generator)
        assignment = Assignment(logits_LN.to(first.device, torch.float32), self.temperature.start)
        mixtures: list[Mixture] = []
        path = ""
        for names in alike.names:
            sets = [model.sites[names[chunk[0]]] for chunk in chunks]
            for row, name in enumerate(names):
                mixtures.append(Mixture(assignment, row, sets, own=not mixtures))
                added = model.sites[name].add(mixtures[-1])
                path = path or f"{added}.assignment.logits"
        sources = tuple(chunk[0] for chunk in chunks)
        return Learned(alike, sources, tuple(alike.groups(choice)), assignment, tuple(mixtures), path)


@dataclass(frozen=True, slots=True)
class Learned:
    """The assignment of layers that are alike. The sets begin as the parameters of the layers at `sources`."""

    alike: Alike
    sources: tuple[int, ...]
    first_groups: tuple[tuple[str, ...], ...]
    assignment: Assignment
    mixtures: tuple[Mixture, ...]
    path: str

    def settle(self, module: nn.Module, choice: Sequence[int]) -> None:
        """Every layer gets the parameters of its set."""
        for names in self.alike.names:
            sets = [module.get_parameter(names[at]) for at in self.sources]
            for name, chosen in zip(names, choice, strict=True):
                owner, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(owner), attribute, sets[chosen])
        for mixture in self.mixtures:
            mixture.end()


class LearnedPlan:
    """The `SharedParameters` of `LearnedSharing`."""

    def __init__(
        self,
        module: Any,
        temperature: Temperature,
        learned: Sequence[Learned],
        plan: SharingPlan,
        groups: tuple[SharedGroup, ...],
    ) -> None:
        self.plan = plan
        self._module, self._temperature, self._learned, self._groups = module, temperature, tuple(learned), groups
        self._choices: list[list[int]] | None = None

    def roles(self) -> dict[str, ParameterRole]:
        return {} if self._choices else {each.path: ParameterRole.NORM for each in self._learned}

    def stored_state(self) -> dict[str, Tensor]:
        """Logits, temperature and choice of each assignment; the choice is -1 as long as it is soft."""
        return {name: tensor.detach() for name, tensor in self._tensors().items()} | {
            f"{index}.choice": torch.tensor(choice, dtype=torch.int64)
            for index, choice in enumerate(self._choices or [[-1] * len(each.alike.layers) for each in self._learned])
        }

    def load_stored_state(self, state: Mapping[str, Tensor]) -> None:
        check_stored(state, self.stored_state())
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(state[name])
        choices = [state[f"{index}.choice"].tolist() for index in range(len(self._learned))]
        if all(chosen >= 0 for choice in choices for chosen in choice):
            self._settle(choices)

    def end_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> None:
        """Cools, and makes the assignment hard once its share of training is over; all ranks have the same logits."""
        if self._choices is not None:
            return
        for each in self._learned:
            each.assignment.temperature.fill_(self._temperature.at(progress))
        if progress >= self._temperature.until:
            self._settle([each.assignment.logits.argmax(dim=-1).tolist() for each in self._learned])

    def hardened(self) -> SharingPlan | None:
        """The plan that was learned; None as long as it is soft."""
        if self._choices is None:
            return None
        chosen = zip(self._learned, self._choices, strict=True)
        return SharingPlan(tuple(group for each, choice in chosen for group in each.alike.groups(choice)))

    def report(self) -> tuple[SharedGroup, ...]:
        return self._groups

    def _settle(self, choices: list[list[int]]) -> None:
        for each, choice in zip(self._learned, choices, strict=True):
            each.settle(self._module, choice)
        self._choices = choices

    def _tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for index, each in enumerate(self._learned):
            named |= {f"{index}.logits": each.assignment.logits, f"{index}.temperature": each.assignment.temperature}
        return named
