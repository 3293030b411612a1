"""Orthogonalisation by Newton-Schulz iteration: matrix products only, and any number of matrices at once.

The quintic's coefficients (Keller Jordan, https://kellerjordan.github.io/posts/muon/) maximise the slope at zero. They
do not converge to 1: five steps take every singular value into about [0.7, 1.2], which trains as well as exact
orthogonalisation and costs no decomposition.

Matrices are iterated on standing upright, columns <= rows: the Gram matrix is the smaller one, and its product X^T X of
contiguous factors takes 0.6 times as long on a CPU as X X^T of the same matrix lying down (fp32, 128 columns, MKL).
"""

from __future__ import annotations

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)

# Smallest norm that is divided by, as in torch.optim.Muon; a zero matrix (an expert without tokens) stays zero.
SMALLEST_NORM = 1e-7

# Elements that a CPU iterates on at once: the buffers of a piece (1 MiB each in fp32) stay in the cache, and no
# iteration touches new memory. 160 matrices of 256 x 256 take 0.78 s in such pieces and 0.96 s as a whole; in bf16 0.26
# and 0.37 s on a CPU that multiplies it.
CPU_PIECE = 2**18

# Columns up to which a CPU iterates in fp32 where bf16 is asked. torch's bf16 `baddbmm` rounds one of a few thousand
# products of at most 16 columns differently when its batch has another length (never seen above 16 columns, nor in
# fp32): the bits of a matrix would depend on how many others are stepped with it.
SMALL = 32


def orthogonalize(matrix: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About U V^T of each matrix U S V^T in [..., m, n]; the result has the same shape, in `dtype`.

    The iteration runs in `dtype`: bfloat16 as in the reference implementation, or float32, which is faster on a CPU
    without bf16 instructions. A CPU iterates on matrices of at most `SMALL` columns or rows in float32, and rounds the
    result. Each matrix is normalised on its own, so a stack of experts equals a loop over them.
    """
    rows, columns = matrix.shape[-2:]
    on_cpu = matrix.device.type == "cpu"
    if on_cpu and dtype == torch.bfloat16 and min(rows, columns) <= SMALL:
        return orthogonalize(matrix.to(dtype), steps=steps, dtype=torch.float32).to(dtype)
    result = torch.empty(matrix.shape, dtype=dtype, device=matrix.device)
    source, target = matrix.reshape(-1, rows, columns), result.view(-1, rows, columns)
    # torch.optim.Muon lays squares down; in bf16 the other side rounds differently, in fp32 it saves the transposition.
    if rows < columns or (rows == columns and dtype == torch.bfloat16):
        source, target = source.mT, target.mT
    together = max(1, CPU_PIECE // (rows * columns)) if on_cpu else max(1, len(source))
    upright = result.new_empty(2, min(together, len(source)), *source.shape[1:])
    square = result.new_empty(2, upright.shape[1], source.shape[2], source.shape[2])
    for piece, place in zip(source.split(together), target.split(together), strict=True):
        count = len(piece)
        place.copy_(_iterate(piece, steps, upright[:, :count], square[:, :count]))
    return result


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bf16. On a CPU with them, 160 matrices of 256 x 256 take
    0.26 s in bf16 and 0.51 s in fp32 (AMD EPYC, two threads)."""
    if device.type != "cpu":
        return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    features = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch cannot tell
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _iterate(matrix: Tensor, steps: int, upright: Tensor, square: Tensor) -> Tensor:
    """The iteration from `matrix` [count, rows, columns]; the result lies in `upright` [2, count, rows, columns], and
    `square` [2, count, columns, columns] is overwritten."""
    (current, following), (gram, polynomial) = upright, square
    current.copy_(matrix)
    current /= torch.linalg.vector_norm(current, dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    step = _plain_products if current.dtype == torch.float32 else _added_products
    for _ in range(steps):
        torch.bmm(current.mT, current, out=gram)
        step(current, gram, polynomial, following)
        current, following = following, current
    return current


def _added_products(current: Tensor, gram: Tensor, polynomial: Tensor, following: Tensor) -> None:
    """X (a + b G + c G^2), rounded where torch.optim.Muon rounds: in bf16 a different order gives a different
    result."""
    linear, cubic, quintic = QUINTIC
    torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic, out=polynomial)
    torch.baddbmm(current, current, polynomial, beta=linear, out=following)


def _plain_products(current: Tensor, gram: Tensor, polynomial: Tensor, following: Tensor) -> None:
    """The same with a and b added only on diagonals, by completing the square: c (G + b/2c)^2 + a - b^2/4c.

    `baddbmm` first copies what it adds; without those copies the quickstart's optimizer step takes 0.96 times as long.
    """
    linear, cubic, quintic = QUINTIC
    half = cubic / (2 * quintic)
    gram.diagonal(dim1=-2, dim2=-1).add_(half)
    torch.baddbmm(polynomial, gram, gram, beta=0, alpha=quintic, out=polynomial)
    polynomial.diagonal(dim1=-2, dim2=-1).add_(linear - quintic * half**2)
    torch.bmm(current, polynomial, out=following)
