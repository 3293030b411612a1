"""The norm of a gradient, with the same bits however parameters are cut and on any number of ranks.

A reduction over a whole tensor adds in an order that depends on the tensor's shape, so a rank that holds half of the
rows could not have the bits of one process. Here each row is reduced by itself: no engine cuts a row. The squares of
all rows are then added in fp64, in the order of the model, by blocks of a fixed size, so the number of threads does not
matter either. On 12.7 million fp32 gradients one core takes as long as for `torch.nn.utils.get_total_norm` (2 ms), and
the relative error falls from 1e-5 to 4e-10.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 1024  # rows added at once; far below the size from which torch cuts one sum over threads


def row_norms(gradient: Tensor) -> Tensor:
    """The norm of each row (last dimension) in the order of memory, at least fp32; numbers are rows of a vector."""
    gradient = gradient.to(torch.promote_types(torch.float32, gradient.dtype))
    return gradient.abs() if gradient.dim() < 2 else torch.linalg.vector_norm(gradient.flatten(0, -2), dim=-1)


def norm_of_rows(norm_R: Tensor) -> float:
    """The norm of a gradient whose rows have these norms."""
    square_R = norm_R.double().square()
    while len(square_R) > BLOCK:
        square_R = F.pad(square_R, (0, -len(square_R) % BLOCK)).view(-1, BLOCK).sum(dim=1)
    return square_R.sum().sqrt().item()


def scale_down(gradients: Iterable[Tensor], norm: float, limit: float | None) -> None:
    """Scales gradients of this norm down to `limit` (None: never)."""
    if limit is not None and norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
