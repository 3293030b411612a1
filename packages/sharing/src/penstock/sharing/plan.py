"""Applies a `SharingPlan` to a model, to its stored state, and to the parameter count.

Everything is checked before anything is changed, and all problems are raised together. Sharing means one `Parameter`
object under several names, so the optimizer sees it once and every use adds to the same gradient; this is what torch
keeps through `.to(...)`, `copy.deepcopy` and `state_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import SharingPlan
from penstock.hooks.problems import Problem, ProblemError, did_you_mean


def share(model: nn.Module, plan: SharingPlan) -> None:
    """Makes the names of each group one `Parameter`: the one under the first name, with its values.

    Share after the model has left the meta device: `to_empty` makes every name a parameter of its own. Raises
    `ProblemError` for unknown names, unequal shapes or dtypes, and names claimed twice; the model is then unchanged.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _check(plan, {name: (tuple(value.shape), value.dtype) for name, value in parameters.items()})
    for first, *others in plan.groups:
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, parameters[first])


def stored_state(state: Mapping[str, Tensor], plan: SharingPlan) -> dict[str, Tensor]:
    """The state without names that are only aliases of a stored tensor.

    Raises `ProblemError` if names of a group hold different values: dropping one would lose it.
    """
    dropped = {name for group in plan.groups for name in group[1:]}
    _check(plan, dict.fromkeys([*state, *dropped]))
    _check_equal(state, plan)
    return {name: tensor for name, tensor in state.items() if name not in dropped}


def restored_state(state: Mapping[str, Tensor], plan: SharingPlan) -> dict[str, Tensor]:
    """Inverse of `stored_state`: every name of a group is the same tensor object. Names that are in the state already
    must hold the same values, otherwise `ProblemError`."""
    missing = {name for group in plan.groups for name in group[1:]}
    _check(plan, dict.fromkeys([*state, *missing]))
    _check_equal(state, plan)
    shared = {name: state[first] for first, *others in plan.groups for name in others}
    return {**state, **shared}


def plan_of(state: Mapping[str, Tensor]) -> SharingPlan:
    """The plan inferred from a state: names of the same elements of the same memory, in the state's order. This
    recovers a plan over a model's parameters under the names of its checkpoint."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in state.items():
        if tensor.numel():
            # The storage's own identity: tensors on a meta device all have the address 0.
            memory = (tensor.untyped_storage()._cdata, tensor.storage_offset())  # pyright: ignore[reportPrivateUsage]
            where = (tensor.device, *memory, tensor.dtype, tensor.shape, tensor.stride())
            groups.setdefault(where, []).append(name)
    return SharingPlan(groups=tuple(tuple(names) for names in groups.values() if len(names) > 1))


def parameter_savings(plan: SharingPlan, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of parameters (numbers, not bytes) that the plan saves: all but one tensor of each group."""
    _check(plan, {name: tuple(shape) for name, shape in shapes.items()})
    return sum(math.prod(shapes[group[0]]) * (len(group) - 1) for group in plan.groups)


def combine(
    plans: Sequence[SharingPlan], owners: Sequence[str] | None = None, across: frozenset[int] = frozenset()
) -> SharingPlan:
    """One plan with the groups of all; raises `ProblemError` naming both groups if two plans claim one name.

    Problems say `sharing.0` for the first plan, as the list in a config counts, or its owner. Groups of the plans in
    `across` join those of other plans with which they have a name in common.
    """
    named = owners or [f"sharing.{index}" for index in range(len(plans))]
    placed = [(index, group) for index, plan in enumerate(plans) for group in plan.groups]
    for joining in (False, True):
        own = [(named[index], group) for index, group in placed if (index in across) == joining]
        if problems := list(_claimed_twice(own)):
            raise ProblemError(problems)
    groups = [group for index, group in placed if index not in across]
    for group in (group for index, group in placed if index in across):
        groups = _joined(groups, group)
    return SharingPlan(groups=tuple(groups))


def _joined(groups: Sequence[tuple[str, ...]], bridge: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The groups with those that a bridge touches as one, in the place of the first."""
    touched = [group for group in groups if set(group) & set(bridge)]
    names = tuple(dict.fromkeys([*bridge[:1], *(name for group in touched for name in group), *bridge]))
    return [*(group for group in groups if group not in touched), names]


def _check(plan: SharingPlan, known: Mapping[str, object]) -> None:
    """Raises every problem of a plan; `known` maps each name to what must be equal within a group."""
    placed = [(f"group {index}", group) for index, group in enumerate(plan.groups)]
    problems = [
        *_claimed_twice(placed),
        *(problem for where, group in placed for problem in _misfits(where, group, known)),
    ]
    if problems:
        raise ProblemError(problems)


def _misfits(where: str, group: tuple[str, ...], known: Mapping[str, object]) -> Iterator[Problem]:
    if not group:
        yield Problem("bad-sharing-plan", "the group is empty", where, "name the parameters to share")
    for name in group:
        if name not in known:
            yield Problem("unknown-parameter", f"unknown parameter '{name}'", where, did_you_mean(name, known))
        elif group[0] in known and known[name] != known[group[0]]:
            what = f"'{group[0]}' is {known[group[0]]}, '{name}' is {known[name]}"
            yield Problem("unequal-parameters", what, where, "share only parameters with the same shape and dtype")


def _claimed_twice(placed: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[Problem]:
    """A problem for each pair of owners, with the first name that both claim."""
    owner: dict[str, tuple[str, tuple[str, ...]]] = {}
    told: set[tuple[str, str]] = set()
    for where, group in placed:
        for name in group:
            earlier, other = owner.get(name, ("", ()))
            if other and (earlier, where) not in told:
                told.add((earlier, where))
                what = f"'{name}' is claimed by {_listed(other)} and by {_listed(group)}"
                yield Problem("shared-twice", what, f"{earlier} and {where}", "keep it in one group")
            owner[name] = (where, group)


def _listed(group: tuple[str, ...]) -> str:
    """The names of a group; of a large one the first three."""
    more = f" and {len(group) - 3} more" if len(group) > 4 else ""
    return f"({', '.join(group[:3] if more else group)}{more})"


def _check_equal(state: Mapping[str, Tensor], plan: SharingPlan) -> None:
    problems = [
        Problem("not-shared", f"'{name}' and '{first}' hold different values", "", "apply `share` to the model first")
        for first, *others in plan.groups
        for name in others
        if name in state and not _same(state[first], state[name])
    ]
    if problems:
        raise ProblemError(problems)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same or equal; identity is checked first because NaN is not equal to itself."""
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)
