"""Laws of balancing losses: a `Routing` and a mask to a scalar that the training loop weighs and adds.

What is held against a loss here is one layer of one forward pass.
"""

from __future__ import annotations

from penstock.conformance.law import laws_in
from penstock.conformance.laws import (
    balance_loss_form,
    balance_loss_gradients,
    balance_loss_loads,
    balance_loss_numerics,
    balance_loss_padding,
)

CAPABILITIES: dict[str, str] = {
    "additive": "the loss of a batch is the mean of its parts' losses, weighted by their tokens",
    "compilable": "torch.compile captures the loss as one graph",
    "counts-choices": "the load counts the experts that were actually chosen, selection bias included",
    "counts-dropped": "choices that capacity turned away count too",
    "exact-gradient": "the gradient is the true derivative as long as the choice stays the same",
    "exact-in-fp64": "the loss of an fp64 routing is computed in fp64",
    "expert-symmetric": "renumbering the experts does not change the loss",
    "load-balancing": "the loss is higher if few experts get most tokens, and its gradient evens out the load",
    "logit-regularizing": "larger logits cost more",
    "mean-over-tokens": "repeating the batch does not change the loss",
    "no-host-sync": "the loss reads no tensor values, so it never waits for the device",
    "one-at-balance": "an even load costs 1",
    "order-free": "the order of tokens does not change the loss",
}
# In an order in which no law needs a later one.
_PARTS = (balance_loss_form, balance_loss_padding, balance_loss_gradients, balance_loss_loads, balance_loss_numerics)
LAWS = tuple(law for part in _PARTS for law in laws_in(vars(part)))
