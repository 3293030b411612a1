# pyright: basic
"""Laws of routers: parameters, generators and copies.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import copy

import torch

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws import router_routing
from penstock.conformance.laws.routings import (
    crowded,
    expect_others_left_alone,
    expect_same_bits,
    expect_same_routing,
    generators_left_alone,
    other_generators,
    router_of,
    seeded,
    spread,
)

ROUTER = "router"


@law(ROUTER, needs=(router_routing.everything_is_finite,))
def a_seed_decides_the_parameters(subject: Subject) -> None:
    """Two routers built from the same torch seed are equal, and no other generator is drawn from.

    Initialise with `torch.nn.init`, not with the generators of Python or numpy.
    """
    before = other_generators()
    first, second = router_of(subject).state_dict(), router_of(subject).state_dict()
    expect_others_left_alone(before, "the constructor")
    expect(first.keys() == second.keys(), "their states have different names")
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    expect(not differing, f"built twice under one seed, {', '.join(differing)} differs")


@law(ROUTER, needs=(router_routing.everything_is_finite,))
def evaluation_repeats_bit_for_bit(subject: Subject) -> None:
    """In evaluation mode the same hidden states give the same bits every time.

    Add noise only if `self.training` is True, and keep no state between calls.
    """
    router = router_of(subject)
    first = router(spread())
    router(crowded())
    expect_same_bits(first, router(spread()), "asked again")


@law(ROUTER, needs=(evaluation_repeats_bit_for_bit,), capability="deterministic")
def training_repeats_bit_for_bit(subject: Subject) -> None:
    """In training mode the same hidden states give the same bits.

    Do not declare `deterministic` for a router with noise.
    """
    router = router_of(subject).train()
    first = router(spread())
    router(crowded())
    expect_same_bits(first, router(spread()), "asked again")


@law(ROUTER, needs=(evaluation_repeats_bit_for_bit,), capability="same-in-training")
def training_routes_as_evaluation_does(subject: Subject) -> None:
    """Training mode and evaluation mode give the same routing.

    With noise or a different capacity in training, the evaluated model differs from the trained one. If that is
    intended, do not declare `same-in-training`.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        evaluated = router(hidden_TD)
        trained = seeded(lambda hidden_TD=hidden_TD: router.train()(hidden_TD))
        expect_same_routing(evaluated, trained, "in training")
        router.eval()


@law(ROUTER, needs=(router_routing.everything_is_finite,))
def routing_leaves_the_global_generators_alone(subject: Subject) -> None:
    """Evaluation and deterministic training do not draw from global generators.

    A draw shifts everything after it: dropout, the next layer's noise, the data order.
    """
    router = router_of(subject)
    with generators_left_alone("evaluation"):
        router(spread())
    if subject.claims("deterministic"):
        with generators_left_alone("training"):
            router.train()(spread())


@law(ROUTER, needs=(a_seed_decides_the_parameters, evaluation_repeats_bit_for_bit))
def the_state_is_all_that_counts(subject: Subject) -> None:
    """A router that loads another's `state_dict()` gives the same routing.

    Register every tensor as a parameter or buffer; values drawn in the constructor and not saved are lost on resume.
    """
    first, second = router_of(subject, seed=0), router_of(subject, seed=1)
    second.load_state_dict(first.state_dict())
    expect_same_bits(first(spread()), second(spread()), "after loading")


@law(ROUTER, needs=(evaluation_repeats_bit_for_bit,))
def a_deep_copy_is_a_router_of_its_own(subject: Subject) -> None:
    """A deep copy gives the same routing, and changing it does not change the original.

    Do not store a tensor with a grad_fn, a closure over `self` or a shared cache as an attribute.
    """
    router = router_of(subject)
    before = router(spread())
    copied = copy.deepcopy(router)
    expect_same_bits(before, copied(spread()), "copied")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.neg_()
    expect_same_bits(before, router(spread()), "after the copy changed")


@law(ROUTER, needs=(a_seed_decides_the_parameters,))
def a_router_made_on_the_meta_device_can_be_initialized(subject: Subject) -> None:
    """A router built on meta, moved with `to_empty` and reset equals one built on the target device.

    `reset_parameters` must fill every parameter and buffer, with the same draws as the constructor. Large models start
    on meta.
    """
    built = router_of(subject)
    if not hasattr(built, "reset_parameters"):
        raise NotApplicable("the router has no reset_parameters()")
    with torch.device("meta"):
        router = router_of(subject)
    router.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*router.parameters(), *router.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
    seeded(router.reset_parameters)
    made = router.state_dict()
    differing = [name for name, value in built.state_dict().items() if not torch.equal(value, made[name])]
    expect(not differing, f"after reset_parameters(), {', '.join(differing)} is not what the constructor makes")
