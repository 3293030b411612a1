# pyright: basic
"""Laws of routers: types, casts and compilers.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import torch

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws import router_routing, router_state
from penstock.conformance.laws.routings import TOKENS, expect_same_routing, expect_shapes, router_of, spread

ROUTER = "router"


@law(ROUTER, needs=(router_routing.everything_is_finite,))
def hidden_states_of_any_floating_type_are_routed_in_fp32(subject: Subject) -> None:
    """bf16, fp16 and fp64 hidden states are routed like the same values in fp32.

    Convert before the product, `linear(hidden_TD.float(), weight.float())`: rounded logits change the choice.
    """
    router = router_of(subject)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        hidden_TD = spread().to(torch.bfloat16).to(dtype)
        routing = router(hidden_TD)
        expect_shapes(routing, router, TOKENS)
        expect_same_routing(router(hidden_TD.float()), routing, f"in {dtype}")


@law(ROUTER, needs=(hidden_states_of_any_floating_type_are_routed_in_fp32, router_state.a_seed_decides_the_parameters))
def a_router_that_was_cast_decides_in_fp32(subject: Subject) -> None:
    """A router cast to bf16 routes as its rounded parameters would in fp32.

    Convert the parameters when they are used: `linear(hidden_TD.float(), weight.float())`.
    """
    cast = router_of(subject).bfloat16()
    rounded = router_of(subject).bfloat16().float()
    hidden_TD = spread().bfloat16()
    routing = cast(hidden_TD)
    expect_shapes(routing, cast, TOKENS)
    expect_same_routing(rounded(hidden_TD.float()), routing, "cast to bf16")


@law(ROUTER, needs=(router_routing.everything_is_finite,))
def autocast_changes_nothing(subject: Subject) -> None:
    """Under autocast the routing is the same.

    Wrap the gate in `torch.autocast(device_type, enabled=False)`: autocast would compute its product in bf16.
    """
    router = router_of(subject)
    plain = router(spread())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(spread())
    expect_shapes(routing, router, TOKENS)
    expect_same_routing(plain, routing, "under autocast")


@law(ROUTER, needs=(router_routing.everything_is_finite,), capability="no-host-sync")
def no_value_is_read_from_the_device(subject: Subject) -> None:
    """A forward pass works on the meta device, where values cannot be read.

    `.item()`, `.tolist()`, `nonzero()`, mask indexing and `if tensor:` wait for the device; `where` and `masked_fill`
    do not. Create tensors on the device of the hidden states.
    """
    routing = router_of(subject).to("meta")(spread().to("meta"))
    expect(routing.weight_TK.device.type == "meta", "the weights come from another device")


@law(ROUTER, needs=(router_routing.everything_is_finite,), capability="compilable")
def it_compiles_as_one_graph(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` captures the router, and the routing is unchanged.

    Do not branch on tensor values in `forward`.
    """
    router = router_of(subject)
    torch.compiler.reset()
    try:
        compiled = torch.compile(router, fullgraph=True, backend="eager")
        expect_same_routing(router(spread()), compiled(spread()), "compiled")
    finally:
        torch.compiler.reset()
