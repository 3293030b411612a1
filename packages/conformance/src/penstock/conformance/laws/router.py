"""Laws of routers: hidden states [T, D] to a `Routing`.

Routers are held to them in evaluation mode, with the parameters that a seed gives; where training mode counts, the law
says so. Slots that a router drops or leaves empty (`kept_TK`, `dropped_TK`) are told apart from those that compute.
"""

from __future__ import annotations

from penstock.conformance.law import laws_in
from penstock.conformance.laws import (
    router_asks,
    router_batches,
    router_bias,
    router_gradients,
    router_numerics,
    router_routing,
    router_slots,
    router_state,
)

# In an order in which no law needs a later one.
_PARTS = (
    router_routing,
    router_slots,
    router_bias,
    router_batches,
    router_gradients,
    router_asks,
    router_state,
    router_numerics,
)
LAWS = tuple(law for part in _PARTS for law in laws_in(vars(part)))
