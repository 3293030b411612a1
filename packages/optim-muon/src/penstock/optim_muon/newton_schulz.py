"""Orthogonalisation by Newton-Schulz iteration: matrix products only, and any number of matrices at once.

The quintic's coefficients (Keller Jordan, https://kellerjordan.github.io/posts/muon/) maximise the slope at zero. They
do not converge to 1: five steps take every singular value into about [0.7, 1.2], which trains as well as exact
orthogonalisation and costs no decomposition.

Shape suffixes: m rows, n columns; leading dimensions are independent matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)

# Smallest norm that is divided by, as in torch.optim.Muon; a zero matrix (an expert without tokens) stays zero.
SMALLEST_NORM = 1e-7


def orthogonalize(matrix: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About U V^T of each matrix U S V^T in [..., m, n]; the result has the same shape, in `dtype`.

    The iteration runs in `dtype`: bfloat16 as in the reference implementation, or float32, which is faster on a CPU
    without bf16 instructions. Each matrix is normalised on its own, so a stack of experts equals a loop over them.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]  # the Gram matrix is taken on the short side
    wide = (matrix.mT if tall else matrix).to(dtype)
    batch = wide.reshape(-1, *wide.shape[-2:])
    norm = torch.linalg.vector_norm(batch, dim=(-2, -1), keepdim=True)
    batch = batch / norm.clamp(min=SMALLEST_NORM)
    linear, cubic, quintic = QUINTIC
    for _ in range(steps):
        gram = batch @ batch.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        batch = torch.baddbmm(batch, polynomial, batch, beta=linear)
    result = batch.reshape(wide.shape)
    return result.mT if tall else result
