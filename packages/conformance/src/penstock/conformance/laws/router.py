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
    "compilable": "torch.compile takes the router as one graph",
    "deterministic": "a forward pass in training mode repeats bit for bit",
    "dropless": "every slot computes, whatever the load",
    "empty-batches": "a batch without tokens is routed",
    "exact-gradient": "the gradient of the weights is their derivative, where the choice stays",
    "exactly-k": "every token chooses `k` experts, those that turn it away included",
    "no-host-sync": "a forward pass reads no value of a tensor, and so never waits for the device",
    "normalized": "the weights of a token sum to 1, or to the setting `scale`",
    "permutation-equivariant": "tokens in another order are routed as before",
    "replayable": "experts that are given are weighed as if the router had chosen them",
    "same-in-training": "training mode routes as evaluation mode does",
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
