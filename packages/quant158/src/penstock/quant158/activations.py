"""Activations of 8 bits with a scale a token, as in BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764, section 2).

An integer product then sees in decoding what training saw. The backward pass is the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.quant158.gradient import straight_through

LARGEST = 127
# A row below is all zeros: 127 / m of a smaller maximum overflows fp32.
SMALLEST_MAXIMUM = 1e-30


def rounded_tokens(x: Tensor) -> Tensor:
    """Each row of x [..., in] as whole numbers from -127 to 127 times a 127th of its largest magnitude m, in fp32:
    rint(x * (127 / m)) * (m / 127), cast to x's dtype.

    >>> rounded_tokens(torch.tensor([127.0, 0.4, -3.6]))
    tensor([127.,   0.,  -4.])
    """
    full = x.detach().float()
    largest = full.abs().amax(-1, keepdim=True) if full.shape[-1] else full.sum(-1, keepdim=True)
    factor = torch.where(largest < SMALLEST_MAXIMUM, 0.0, LARGEST / largest)
    value = (full * factor).round_().mul_(largest / LARGEST)  # m * (127 / m) rounds to 127, so nothing is to be clipped
    return straight_through(value, x)
