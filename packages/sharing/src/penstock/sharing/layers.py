"""Which layers of a stack are one, and what of them: the plans of all strategies that share across layers.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from penstock.hooks.contracts import ParameterRole, Shareable, SharingPlan
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.parts import ATTENTION, FEED_FORWARD, Half, Part, Place, places_of

PatternName: TypeAlias = Literal["sequential", "alternate", "sparse"]
WEIGHTS = (ParameterRole.MATRIX, ParameterRole.EXPERT)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Groups of layers. Six layers are AABBCC with `sequential` and an interval of 2, ABABAB with `alternate` and 2
    distinct ones. `sparse` has its groups as numbers of layers; layers in none stay their own. Without an interval, a
    number of distinct layers and groups, all layers are one."""

    name: PatternName = "sequential"
    interval: int | None = None
    distinct: int | None = None
    groups: tuple[tuple[int, ...], ...] | None = None

    def of(self, layers: Sequence[int]) -> list[tuple[int, ...]]:
        """The groups among the layers of one stack.

        >>> Pattern("sequential", interval=2).of(range(5)), Pattern("alternate", distinct=2).of(range(5))
        ([(0, 1), (2, 3), (4,)], [(0, 2, 4), (1, 3)])
        >>> Pattern("sequential", distinct=2).of(range(5)), Pattern("sparse", groups=((0, 4),)).of(range(5))
        ([(0, 1), (2, 3, 4)], [(0, 4)])
        """
        if self.name == "sparse":
            return [group for group in self.groups or () if set(group) <= set(layers)]
        if self.name == "alternate":
            distinct = self.distinct or 1
            return [tuple(layers[start::distinct]) for start in range(min(distinct, len(layers)))]
        if self.interval is not None:
            return [tuple(layers[start : start + self.interval]) for start in range(0, len(layers), self.interval)]
        count = min(self.distinct or 1, len(layers))
        ends = [len(layers) * at // count for at in range(count + 1)] if count else []
        return [tuple(layers[start:end]) for start, end in pairwise(ends)]


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a layer is shared: the matrices and experts of the parts (None: all), and the norms and biases that
    belong to them. `every`: the model must have each of the parts."""

    parts: frozenset[Part] | None = None
    norms: bool = False
    biases: bool = False
    every: bool = True

    def takes(self, place: Place, role: ParameterRole) -> bool:
        if place.layer is None:
            return False
        if place.parts == ("norm",):
            return self.norms and (self.parts is None or place.half in self._halves)
        if place.parts == ("bias",):
            return self.biases and (self.parts is None or not self.parts.isdisjoint(place.of))
        return role in WEIGHTS if self.parts is None else not self.parts.isdisjoint(place.parts)

    @property
    def _halves(self) -> set[Half]:
        parts = self.parts or frozenset()
        attention: set[Half] = {"attention", "cross-attention"} if parts & set(ATTENTION) else set()
        return attention | ({"feed-forward"} if parts & set(FEED_FORWARD) else set())

    def problems(self, places: Mapping[str, Place]) -> Iterator[Problem]:
        """Parts that no parameter has, and tensors of which only some parts are named."""
        named = self.parts or frozenset[Part]()
        in_layers = {name: place for name, place in places.items() if place.layer is not None}
        present = {part for place in in_layers.values() for part in place.parts}
        for part in sorted(named - present) if self.every else ():
            known = f"its layers have {', '.join(sorted(present))}" if present else "it has no layers"
            yield Problem("no-match", f"no layer of the model has the part '{part}'", "", known)
        fused = {place.parts for place in in_layers.values() if named and not named.isdisjoint(place.parts)}
        for parts in sorted(each for each in fused if not named.issuperset(each)):
            listed = f"{', '.join(parts[:-1])} and {parts[-1]}"
            count = {2: "both", 3: "all three"}.get(len(parts), "all of them")
            yield Problem("bad-sharing-plan", f"{listed} are one tensor", "", f"share {count}, or none")


def plan_layers(model: Shareable, pattern: Pattern, selection: Selection) -> SharingPlan:
    """Parameters of one name in the layers of each group. Raises `ProblemError` for parts and layers that the model
    does not have, for parameters of one name with unequal shapes, and if nothing would be shared."""
    places = places_of(model.roles, model.layouts)
    problems = [*selection.problems(places), *_unknown_layers(pattern, places.values())]
    if problems:
        raise ProblemError(problems)
    alike: dict[tuple[str, str], dict[int, str]] = {}
    for name, place in places.items():
        if selection.takes(place, model.roles[name]) and place.layer is not None and place.stack is not None:
            alike.setdefault((place.stack, place.rest), {})[place.layer] = name
    stacks = {stack: sorted(_layers(places.values(), stack)) for stack, _ in alike}
    groups = [
        tuple(names[layer] for layer in group if layer in names)
        for (stack, _), names in alike.items()
        for group in pattern.of(stacks[stack])
    ]
    plan = SharingPlan(tuple(group for group in groups if len(group) > 1))
    if problems := list(unequal(model, plan)):
        raise ProblemError(problems)
    if not plan.groups:
        fix = "share other parts or layers, or remove the strategy"
        raise ProblemError(Problem("cannot-tie", "no two layers have a parameter that they could share", "", fix))
    return plan


def unequal(model: Shareable, plan: SharingPlan) -> Iterator[Problem]:
    """A problem for each group whose parameters differ in shape or role, with the first two that do."""
    for first, *others in plan.groups:
        for name in others:
            mine, other = ((tuple(model.parameters[each].shape), model.roles[each]) for each in (first, name))
            if mine != other:
                what = f"'{first}' is {mine[1]} {list(mine[0])}, '{name}' is {other[1]} {list(other[0])}"
                fix = "share layers of one shape: name them with `pattern: sparse`"
                yield Problem("unequal-parameters", what, "", fix)
                break


def _layers(places: Collection[Place], stack: str) -> set[int]:
    return {place.layer for place in places if place.stack == stack and place.layer is not None}


def _unknown_layers(pattern: Pattern, places: Collection[Place]) -> Iterator[Problem]:
    known = {place.layer for place in places if place.layer is not None}
    for group in pattern.groups or ():
        if unknown := [str(layer) for layer in group if layer not in known]:
            what = f"the group {list(group)} names no parameter: the model has no layer {', '.join(unknown)}"
            fix = f"its layers are 0 to {max(known)}" if known else "it has no layers"
            yield Problem("no-match", what, "", fix)
