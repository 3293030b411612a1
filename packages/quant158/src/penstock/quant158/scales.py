"""Groups of weights that share a scale, and scales as fp16 holds them.

Scales are rounded to fp16 in training, because that is what a file stores: the packed weight is then the trained one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from penstock.quant158.stored import LARGEST_SCALE, SMALLEST_SCALE, Group


def grouped(full: Tensor, group: Group) -> Tensor:
    """[..., out, in] as [..., out, groups, width of a group], a view unless zeros fill up the last group."""
    if isinstance(group, str):
        return full.unsqueeze(-2)
    groups = -(-full.shape[-1] // group)
    return F.pad(full, (0, groups * group - full.shape[-1])).unflatten(-1, (groups, group))


def ungrouped(values: Tensor, width: int) -> Tensor:
    """Inverse of `grouped`, of any values: [..., out, groups, width of a group] to [..., out, width]."""
    flat = values.flatten(-2)
    return flat if flat.shape[-1] == width else flat[..., :width]


def mean_magnitude(groups: Tensor, group: Group, width: int) -> Tensor:
    """Mean |w| of each group, fp32 [..., out or 1, groups, 1], of what `grouped` returned for rows of a width.

    The sum is in fp64: in fp32 its last bits depend on the number of threads, on what is stacked and on the vector
    instructions of the machine, and a weight at a threshold could be packed otherwise than it was trained.
    """
    total = groups.abs().sum(-1, keepdim=True, dtype=torch.float64)
    if group == "tensor":
        return (total.sum(-3, keepdim=True) / max(groups.shape[-3] * width, 1)).float()
    mean = total / max(groups.shape[-1], 1)
    if isinstance(group, int) and width % group:
        mean[..., -1, :] = total[..., -1, :] / (width % group)
    return mean.float()


def snapped(scale: Tensor) -> Tensor:
    """fp32 scales to the fp16 numbers that stand for them: at least 2^-14, which is the smallest that fp16 holds with
    full precision, and at most its largest. What is not finite becomes NaN, so divergence stays visible."""
    return torch.where(scale.isfinite(), scale.clamp(SMALLEST_SCALE, LARGEST_SCALE), torch.nan).half()


def too_large(scale: Tensor) -> str | None:
    """What is wrong with scales, not yet rounded, that are above the range of fp16."""
    if not bool((scale > LARGEST_SCALE).any()):
        return None
    return f"a scale of {float(scale.max()):.3g}, and fp16 ends at {LARGEST_SCALE:.0f}"
