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

CAPABILITIES: dict[str, str] = {
    "batch-invariant": "a token's routing does not depend on the other tokens of the batch",
    "capacity-bounded": "no expert computes more tokens than `capacity(tokens)`, a method of the router",
    "causal": "a token's routing does not depend on the tokens after it",
    "compilable": "torch.compile captures the router as one graph",
    "deterministic": "a forward pass in training mode repeats bit for bit",
    "dropless": "every slot computes, whatever the load",
    "empty-batches": "an empty batch is routed",
    "exact-gradient": "the gradient of the weights is their true derivative as long as the choice stays the same",
    "exactly-k": "every token chooses `k` experts, including those that turn it away",
    "no-host-sync": "a forward pass reads no tensor values, so it never waits for the device",
    "normalized": "the weights of a token sum to 1, or to the setting `scale`",
    "permutation-equivariant": "permuting the tokens permutes the routing",
    "replayable": "given experts get the weights they would have if the router had chosen them",
    "same-in-training": "training mode routes like evaluation mode",
    "token-ids": "the router asks for the ids of its tokens",
    "trainable": "the gradient of the weights reaches a parameter",
}
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
