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

# In an order in which no law needs a later one.
_PARTS = (balance_loss_form, balance_loss_padding, balance_loss_gradients, balance_loss_loads, balance_loss_numerics)
LAWS = tuple(law for part in _PARTS for law in laws_in(vars(part)))
