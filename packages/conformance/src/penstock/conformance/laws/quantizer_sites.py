# pyright: basic
"""Laws of quantizers of contract 2: a module for each weight, and the roles that a config may give them."""

from __future__ import annotations

import torch
from torch import nn

from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws.quantized import MATRIX, built_with_sites, drawn_weight, same_draws, site_of
from penstock.hooks.contracts import ParameterRole

QUANTIZER = "quantizer"


@law(QUANTIZER)
def every_weight_has_a_module_of_its_own(subject: Subject) -> None:
    """`site` returns a new `torch.nn.Module` at every call.

    A module holds the state of one weight: create it in `site`, and do not keep it on the quantizer.
    """
    quantizer = built_with_sites(subject)
    first, second = site_of(quantizer, MATRIX), site_of(quantizer, MATRIX)
    expect(isinstance(first, nn.Module), f"site returned a {type(first).__name__}")
    expect(first is not second, "two weights got the same module")
    met = {id(each) for each in first.parameters()} & {id(each) for each in second.parameters()}
    expect(not met, "the modules of two weights have a parameter in common")


SITES = (every_weight_has_a_module_of_its_own,)


@law(QUANTIZER, needs=SITES)
def the_state_of_a_site_is_all_that_it_keeps(subject: Subject) -> None:
    """A new module that loads the `state_dict` of a used one returns the same bits.

    Keep persistent state in parameters and buffers: checkpoints hold nothing else.
    """
    quantizer = built_with_sites(subject)
    used, restored = site_of(quantizer, MATRIX), site_of(quantizer, MATRIX)
    with torch.no_grad():
        for seed in (1, 2, 3):
            used(10 * drawn_weight(*MATRIX, seed=seed))
        for parameter in used.parameters():
            parameter.mul_(1.25)
    restored.load_state_dict(used.state_dict())
    weight = drawn_weight(*MATRIX)
    with same_draws(), torch.no_grad():
        expected = used(weight)
    with same_draws(), torch.no_grad():
        expect(torch.equal(restored(weight), expected), "restored, the module returns another weight")


@law(QUANTIZER, needs=SITES)
def what_a_site_learns_gets_a_gradient(subject: Subject) -> None:
    """Every parameter of a module gets a finite gradient when its weight is used.

    The optimizer steps them: make the result depend on each, and register untrained tensors as buffers.
    """
    site = site_of(built_with_sites(subject), MATRIX)
    learned = dict(site.named_parameters())
    if not learned:
        raise NotApplicable("the quantizer learns nothing")
    site(drawn_weight(*MATRIX).requires_grad_()).backward(drawn_weight(*MATRIX, seed=1))
    idle = [name for name, each in learned.items() if each.grad is None or not each.grad.isfinite().all()]
    expect(not idle, f"without a finite gradient: {', '.join(idle)}")


@law(QUANTIZER, capability="matrices")
def matrices_are_served(subject: Subject) -> None:
    """`roles` contains `matrix`, and `site` makes a module for it.

    A config that names the quantizer for a role is checked against the capability.
    """
    _serves(subject, ParameterRole.MATRIX, MATRIX)


@law(QUANTIZER, capability="experts")
def experts_are_served(subject: Subject) -> None:
    """`roles` contains `expert`, and `site` makes a module for a stack.

    A config that names the quantizer for a role is checked against the capability.
    """
    _serves(subject, ParameterRole.EXPERT, (3, *MATRIX))


@law(QUANTIZER, capability="embeddings")
def embeddings_are_served(subject: Subject) -> None:
    """`roles` contains `embedding`, and `site` makes a module for it.

    A config that names the quantizer for a role is checked against the capability.
    """
    _serves(subject, ParameterRole.EMBEDDING, MATRIX)


@law(QUANTIZER, capability="heads")
def heads_are_served(subject: Subject) -> None:
    """`roles` contains `head`, and `site` makes a module for it.

    A config that names the quantizer for a role is checked against the capability.
    """
    _serves(subject, ParameterRole.HEAD, MATRIX)


def _serves(subject: Subject, role: ParameterRole, shape: tuple[int, ...]) -> None:
    quantizer = built_with_sites(subject)
    expect(role in quantizer.roles, f"the roles are {', '.join(sorted(quantizer.roles))}")
    result = quantizer.site(shape, role)(drawn_weight(*shape))
    expect(result.shape == shape, f"a weight of shape {shape} came back as {tuple(result.shape)}")


LAWS = laws_in(globals())
