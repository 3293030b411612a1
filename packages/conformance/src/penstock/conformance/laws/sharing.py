# pyright: basic
"""Laws of sharing strategies of every contract: groups of names that are one tensor."""

from __future__ import annotations

import copy
import pickle
from typing import TypeVar

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws import sharing_sites
from penstock.conformance.laws.shared import Drawn, Roles, Shapes, model_of, planned, shared_by
from penstock.hooks.contracts import ParameterRole, SharingPlan
from penstock.hooks.problems import ProblemError

SHARING = "sharing"
Value = TypeVar("Value")

# Input and output embedding are two ends of one map; every other role stands for itself.
ALIKE = {ParameterRole.HEAD: ParameterRole.EMBEDDING}


@law(SHARING)
def a_plan_is_groups_of_names(subject: Subject) -> None:
    """The plan of a transformer is a `SharingPlan`: a tuple of tuples of names.

    Plans are compared and stored as values: return tuples, not lists or sets.
    """
    plan = planned(subject, subject.build(), *model_of(subject))
    expect(isinstance(plan, SharingPlan), f"the plan is a {type(plan).__name__}")
    tuples = isinstance(plan.groups, tuple) and all(isinstance(group, tuple) for group in plan.groups)
    expect(tuples, f"the groups are {plan.groups!r}")
    expect(all(isinstance(name, str) for group in plan.groups for name in group), f"the groups are {plan.groups!r}")


PLAN = (a_plan_is_groups_of_names,)


@law(SHARING, needs=PLAN)
def a_transformer_has_something_to_share(subject: Subject) -> None:
    """A transformer whose layers and embeddings have equal shapes gives at least one group; with contract 3, fewer
    parameters will do.

    Find parameters by role and shape; if settings name them, let `Schema.example` match names such as
    `layers.1.mlp.up_proj.weight`.
    """
    roles, shapes = model_of(subject)
    if planned(subject, subject.build(), roles, shapes).groups:
        return
    expect(subject.component.contract >= 3, "the plan is empty")
    drawn = Drawn.of(roles, shapes)
    before = _count(drawn)
    shared_by(subject.build(), drawn, 0)
    expect(_count(drawn) < before, f"the plan is empty, and {_count(drawn)} parameters were {before} before")


@law(SHARING, needs=PLAN)
def names_are_those_of_parameters(subject: Subject) -> None:
    """A plan contains only names of the model's parameters.

    Take the names from the given roles.
    """
    roles, shapes = model_of(subject)
    unknown = sorted(
        {name for group in planned(subject, subject.build(), roles, shapes).groups for name in group} - roles.keys()
    )
    expect(not unknown, f"the model has no {', '.join(unknown)}")


@law(SHARING, needs=PLAN)
def a_name_stands_in_one_group(subject: Subject) -> None:
    """No name appears twice, in two groups or in one.

    Merge groups that have a name in common.
    """
    names = [name for group in planned(subject, subject.build(), *model_of(subject)).groups for name in group]
    twice = sorted({name for name in names if names.count(name) > 1})
    expect(not twice, f"named twice: {', '.join(twice)}")


@law(SHARING, needs=PLAN)
def a_group_has_at_least_two_names(subject: Subject) -> None:
    """A group has two names or more.

    Leave out parameters that are shared with nothing.
    """
    small = [group for group in planned(subject, subject.build(), *model_of(subject)).groups if len(group) < 2]
    expect(not small, f"groups without a partner: {small}")


@law(SHARING, needs=(names_are_those_of_parameters,))
def a_group_has_one_shape(subject: Subject) -> None:
    """All parameters of a group have the same shape.

    Compare shapes before grouping; a transposed matrix has a different shape.
    """
    roles, shapes = model_of(subject)
    for group in planned(subject, subject.build(), roles, shapes).groups:
        found = {shapes[name] for name in group}
        expect(len(found) == 1, f"{', '.join(group)} have the shapes {sorted(found)}")


@law(SHARING, needs=(names_are_those_of_parameters,))
def a_group_has_one_role(subject: Subject) -> None:
    """All parameters of a group have the same role; embedding and head count as one.

    The role decides optimizer, decay and quantizer, and a tensor can have only one.
    """
    roles, shapes = model_of(subject)
    for group in planned(subject, subject.build(), roles, shapes).groups:
        found = {ALIKE.get(roles[name], roles[name]) for name in group}
        expect(len(found) == 1, f"{', '.join(group)} have the roles {', '.join(sorted(found))}")


@law(SHARING, needs=PLAN)
def the_order_of_the_model_does_not_matter(subject: Subject) -> None:
    """The same parameters in another order give the same groups, with the same first names.

    The first name is the stored one: choose it by role or by name, not by position.
    """
    strategy = subject.build()
    roles, shapes = model_of(subject)
    forward = _as_sets(planned(subject, strategy, roles, shapes))
    backward = _as_sets(planned(subject, strategy, _reversed(roles), _reversed(shapes)))
    expect(forward == backward, f"only in one of the two orders: {sorted(first for first, _ in forward ^ backward)}")


@law(SHARING, needs=PLAN)
def a_plan_depends_on_the_model_alone(subject: Subject) -> None:
    """The same model gives the same plan, regardless of earlier calls.

    Keep no state between calls.
    """
    strategy = subject.build()
    first = planned(subject, strategy, *model_of(subject))
    planned(subject, strategy, *model_of(subject, layers=6))
    expect(
        planned(subject, strategy, *model_of(subject)) == first,
        "after planning for another model, the first plan differs",
    )


@law(SHARING, needs=PLAN)
def roles_and_shapes_stay(subject: Subject) -> None:
    """The given mappings are not changed.

    The caller still uses both mappings: remove names from a copy.
    """
    given, before = model_of(subject), model_of(subject)
    planned(subject, subject.build(), *given)
    expect(given == before, "roles or shapes have changed after `plan`")


@law(SHARING, needs=PLAN)
def nothing_to_share_is_an_empty_plan_or_a_problem(subject: Subject) -> None:
    """A model with nothing to share gives an empty plan, or a `ProblemError` that says why.

    An exception of another type looks like a bug to the user.
    """
    roles = {"weight": ParameterRole.MATRIX, "norm.weight": ParameterRole.NORM}
    groups = _groups_or_problem(subject, roles, {"weight": (8, 4), "norm.weight": (4,)})
    expect(not groups, f"the plan of two unlike parameters has the groups {groups}")


@law(SHARING, needs=(names_are_those_of_parameters, a_name_stands_in_one_group))
def what_is_shared_is_not_shared_again(subject: Subject) -> None:
    """A model after the plan is applied gives an empty plan, or a `ProblemError`.

    Only the first name of each group is left. Find all partners in one pass: with pairs of pairs, planning twice would
    give a different model.
    """
    roles, shapes = model_of(subject)
    dropped = {name for group in planned(subject, subject.build(), roles, shapes).groups for name in group[1:]}
    left = [name for name in roles if name not in dropped]
    again = _groups_or_problem(subject, {name: roles[name] for name in left}, {name: shapes[name] for name in left})
    expect(not again, f"planned again, the model has the groups {again}")


@law(SHARING, needs=(a_plan_depends_on_the_model_alone,))
def a_copy_is_the_same_strategy(subject: Subject) -> None:
    """A deep or pickled copy gives the same plan.

    Store plain values as attributes, not lambdas or open files.
    """
    strategy = subject.build()
    plan = planned(subject, strategy, *model_of(subject))
    for name, other in (("deep", copy.deepcopy(strategy)), ("pickled", pickle.loads(pickle.dumps(strategy)))):
        expect(planned(subject, other, *model_of(subject)) == plan, f"the {name} copy gives a different plan")


def _count(drawn: Drawn) -> int:
    return sum(parameter.numel() for parameter in drawn.module.parameters())


def _reversed(mapping: dict[str, Value]) -> dict[str, Value]:
    return dict(reversed(mapping.items()))


def _as_sets(plan: SharingPlan) -> set[tuple[str, frozenset[str]]]:
    return {(group[0] if group else "", frozenset(group)) for group in plan.groups}


def _groups_or_problem(subject: Subject, roles: Roles, shapes: Shapes) -> tuple[tuple[str, ...], ...]:
    try:
        return planned(subject, subject.build(), roles, shapes).groups
    except ProblemError:
        return ()


LAWS = (*laws_in(globals()), *sharing_sites.LAWS)
