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
    "compilable": "torch.compile takes the loss as one graph",
    "counts-choices": "the load is that of the experts that were really chosen, selection bias included",
    "counts-dropped": "of the choices that count, those that capacity turned away are some",
    "exact-gradient": "the gradient is the derivative, where the choice stays",
    "exact-in-fp64": "fp64 routings are computed in fp64",
    "expert-symmetric": "experts under other numbers cost the same",
    "load-balancing": "tokens that crowd into few experts cost more, and the gradient draws them away",
    "logit-regularizing": "larger logits cost more",
    "mean-over-tokens": "a batch that is there twice costs the same",
    "no-host-sync": "the loss reads no value of a tensor, and so never waits for the device",
    "one-at-balance": "an even load costs 1",
    "order-free": "tokens in another order cost the same",
}
# In an order in which no law needs a later one.
_PARTS = (balance_loss_form, balance_loss_padding, balance_loss_gradients, balance_loss_loads, balance_loss_numerics)
LAWS = tuple(law for part in _PARTS for law in laws_in(vars(part)))
