# pyright: basic
"""Laws of sharing strategies of contracts 2 and 3, which add parameters of their own to weight sites."""

from __future__ import annotations

import math

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws.shared import applied, model_of
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import ProblemError

SHARING = "sharing"


@law(SHARING)
def a_site_keeps_the_shape_of_its_weight(subject: Subject) -> None:
    """The effective weight of every site has the shape and dtype of the stored one, and is finite.

    A transform must keep shape and dtype: broadcast gains, do not reshape.
    """
    _, sites = applied(subject)
    for name, site in sites.items():
        effective = site.effective()
        same = (effective.shape, effective.dtype) == (site.weight.shape, site.weight.dtype)
        expect(same and effective.isfinite().all(), f"'{name}' came back as {effective.dtype} {tuple(effective.shape)}")


APPLIED = (a_site_keeps_the_shape_of_its_weight,)


@law(SHARING, needs=APPLIED)
def every_added_parameter_has_a_role(subject: Subject) -> None:
    """`roles` covers exactly the names of the added parameters, each with a `ParameterRole`.

    Build the names from what `add` returns; optimizers and the size table use them.
    """
    shared, sites = applied(subject)
    added = {name for site in sites.values() for name in site.added_parameters()}
    elsewhere = shared.roles().keys() - added if subject.component.contract >= 3 else set()  # in modules without sites
    different = sorted((shared.roles().keys() - elsewhere) ^ added)
    expect(not different, f"without a role, or not added: {', '.join(different)}")
    wrong = [name for name, role in shared.roles().items() if not isinstance(role, ParameterRole)]
    expect(not wrong, f"not roles: {', '.join(wrong)}")


@law(SHARING, needs=APPLIED)
def what_was_added_learns(subject: Subject) -> None:
    """Every added parameter gets a finite gradient from the weights of its site.

    Make the effective weight depend on it, and register untrained tensors as buffers.
    """
    _, sites = applied(subject)
    import torch  # only once there is a strategy of contract 2, which needs it

    torch.stack([site.effective().square().sum() for site in sites.values()]).sum().backward()
    idle = [
        name
        for site in sites.values()
        for name, each in site.added_parameters().items()
        if each.grad is None or not each.grad.isfinite().all()
    ]
    expect(not idle, f"without a finite gradient: {', '.join(idle)}")


@law(SHARING, needs=APPLIED)
def a_stored_state_is_restored(subject: Subject) -> None:
    """`load_stored_state(stored_state())` restores sites of the same weights, bit for bit.

    Store everything that training changes apart from the model's own parameters.
    """
    shared, sites = applied(subject)
    import torch

    with torch.no_grad():
        for site in sites.values():
            for parameter in site.added_parameters().values():
                parameter.add_(0.25)
    fresh, others = applied(subject)
    fresh.load_stored_state({name: tensor.detach().clone() for name, tensor in shared.stored_state().items()})
    different = [name for name in sites if not torch.equal(sites[name].effective(), others[name].effective())]
    expect(not different, f"different after restoring: {', '.join(different)}")


@law(SHARING, needs=(a_stored_state_is_restored,))
def a_missing_stored_tensor_is_named(subject: Subject) -> None:
    """A stored state with a missing tensor raises a `ProblemError` that names it.

    Compare names before loading anything.
    """
    shared, _ = applied(subject)
    state = dict(shared.stored_state())
    if not state:
        raise NotApplicable("the strategy stores nothing")
    missing = min(state)
    del state[missing]
    try:
        shared.load_stored_state(state)
    except ProblemError as error:
        expect(missing in str(error), f"the problem does not name '{missing}': {error}")
    else:
        expect(False, f"a state without '{missing}' was loaded")


@law(SHARING, needs=APPLIED)
def the_same_seed_adds_the_same(subject: Subject) -> None:
    """Applying twice with the same seed stores the same bits, without drawing from global generators.

    Draw from `torch.Generator().manual_seed(seed)`.
    """
    applied(subject)
    import torch

    from penstock.conformance.parts import random_state

    before = random_state()
    first, second = (applied(subject, seed=3)[0].stored_state() for _ in range(2))
    expect(random_state() == before, "a global random generator was drawn from")
    expect(first.keys() == second.keys(), "the second application stores different names")
    other = [name for name in first if not torch.equal(first[name], second[name])]
    expect(not other, f"different when applied twice: {', '.join(other)}")


@law(SHARING, needs=APPLIED)
def the_report_counts_what_is_saved(subject: Subject) -> None:
    """`report` lists the groups of the plan; each saves all but one of its tensors.

    Count numbers, not bytes; added parameters are counted with the model's.
    """
    _, shapes = model_of(subject)
    shared, _ = applied(subject)
    reported = {group.names: group.saved for group in shared.report()}
    expected = {names: (len(names) - 1) * math.prod(shapes[names[0]]) for names in shared.plan.groups}
    expect(reported == expected, f"the report has {reported}, expected {expected}")


LAWS = laws_in(globals())
