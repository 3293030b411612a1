# pyright: basic
"""Laws of balancing losses: autocast, the meta device, and the compiler."""

from __future__ import annotations

import torch

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws.balance_loss_form import LOSS, NUMBER
from penstock.conformance.laws.losses import every_other_token, expect_close, logits, routing_of
from penstock.conformance.laws.routings import over, seeded


@law(LOSS, needs=NUMBER)
def autocast_changes_nothing(subject: Subject) -> None:
    """Under autocast the loss is the same.

    Write sums of products with `*` and `sum`: autocast computes matrix products in bf16.
    """
    loss, routing = subject.build(), routing_of(logits())
    plain = loss(routing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expect_close(plain, loss(routing), "under autocast")


@law(LOSS, needs=NUMBER, capability="no-host-sync")
def no_value_is_read_from_the_device(subject: Subject) -> None:
    """The loss works on the meta device, where values cannot be read.

    `.item()`, `bincount`, `nonzero()` and mask indexing wait for the device; `scatter_add` and `where` do not.
    """
    routing = over(routing_of(logits()), lambda tensor: tensor.to("meta"))
    expect(subject.build()(routing, every_other_token().to("meta")).is_meta, "the loss comes from another device")


@law(LOSS, needs=NUMBER, capability="compilable")
def it_compiles_as_one_graph(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` captures the loss, and its value is unchanged.

    Do not branch on tensor values.
    """
    loss, routing = subject.build(), routing_of(logits())
    torch.compiler.reset()
    try:
        compiled = torch.compile(lambda given: loss(given), fullgraph=True, backend="eager")
        expect_close(loss(routing), seeded(lambda: compiled(routing)), "compiled")
    finally:
        torch.compiler.reset()
