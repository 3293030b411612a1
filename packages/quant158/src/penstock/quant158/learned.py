"""Ternary weights with a learned threshold a row: the stretched elastic quantizer of ParetoQ (arXiv:2502.02631) at 1.58
bits, with the gradient scale of LSQ (arXiv:1902.08153).

With a clip c a row, a weight w becomes q(w) = c * round(clip(w / c, -1, 1) * 3/2) / (3/2): -2/3, 0 or 2/3 of c, with
thresholds at a third of it. The scale of a file is s = 2/3 c, so that trit = round(clip(w / s, -1, 1)) as in `ternary`.
The gradients are

    dq/dw = 1 inside the clip, 0 beyond it;    dq/dc = q(w) / c - (w / c inside the clip, 0 beyond it),

and that of c is divided by the root of the number of weights, so that c changes by a like share of itself as they do.

ParetoQ starts c from the weights of a trained model. Here models start from scratch, and projections that write to the
residual stream start at zero, so that c would start a thousand times too small for what their weights become. What is
learned is therefore g in s = e^g * mean |w|, with the mean as a constant. A row begins as that of `ternary` does, and a
step of the optimizer, whose size is set for norms, multiplies the scale: it cannot pass zero, which a step of c can.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import Problem, ProblemError
from penstock.quant158.config import Warmup
from penstock.quant158.quantizer import GridSite, PackedQuantizer, Stored
from penstock.quant158.roles import checked_roles
from penstock.quant158.scales import grouped, mean_magnitude, snapped, too_large
from penstock.quant158.stored import SMALLEST_SCALE, ternary_format


class LearnedSite(GridSite):
    """Quantizes one weight to ternary values; `log_gain` [..., out, 1] is learned."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(*shape[:-1], 1))
        self.gradient_scale = 1 / math.sqrt(max(math.prod(shape[-2:]), 1))

    @property
    def gain(self) -> Tensor:
        """The scale over the mean magnitude of a row."""
        return self.log_gain.exp()

    def forward(self, weight: Tensor) -> Tensor:
        detached = weight.detach()
        full, mean = detached.float(), _row_mean(weight)
        scale = self._scale(mean).float()
        ratio = full / scale
        trit = ratio.round().clamp_(-1, 1)
        inside = ratio.abs() < 1.5
        slope = (trit - ratio * inside) * (mean * self.gradient_scale)
        passed = torch.where(inside, weight, detached) - detached  # zeros, which carry the gradient
        gain = self.gain
        learned = slope * (gain - gain.detach())
        return (trit * scale + learned).to(weight.dtype) + passed

    def stored(self, weight: Tensor) -> Stored:
        scale = self._scale(_row_mean(weight))
        return Stored((weight.detach().float() / scale.float()).round_().clamp_(-1, 1), scale)

    def fault(self, weight: Tensor) -> str | None:
        mean, gain = _row_mean(weight), self.gain.detach()
        if wrong := _first(gain, ~(gain.isfinite() & (gain > 0))):
            return f"a learned scale of {wrong} times the mean magnitude of a row"
        scale = gain * mean
        if wrong := _first(scale, (scale < SMALLEST_SCALE) & (mean >= SMALLEST_SCALE)):
            return f"a learned scale of {wrong}, which fp16 rounds to zero or a subnormal number"
        return too_large(scale)

    def _scale(self, mean: Tensor) -> Tensor:
        return snapped(self.gain.detach() * mean)


def _row_mean(weight: Tensor) -> Tensor:
    """fp32 [..., out, 1]."""
    return mean_magnitude(grouped(weight.detach().float(), "row"), "row", weight.shape[-1]).squeeze(-2)


def _first(values: Tensor, wrong: Tensor) -> str | None:
    found = values[wrong]
    return f"{float(found[0]):.3g}" if len(found) else None


class LearnedTernaryQuantizer(PackedQuantizer):
    """Quantizer with three levels and a learned scale for each output row. Leading dimensions are independent. Raises
    `ValueError` for a role that cannot be ternary. `activations` and `warmup` are those of `PackedQuantizer`."""

    def __init__(
        self,
        roles: Iterable[ParameterRole | str] = (ParameterRole.MATRIX, ParameterRole.EXPERT),
        activations: Literal["int8"] | None = None,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__(ternary_format("row"), checked_roles(roles), activations=activations, warmup=warmup)

    def grid_site(self, shape: tuple[int, ...]) -> LearnedSite:
        return LearnedSite(shape)

    def _grid_of(self, shape: tuple[int, ...], site: nn.Module | None, name: str) -> GridSite:
        if site is None:
            what = f"the scales of '{name}' are learned, and its site was not given"
            raise ProblemError(Problem("bad-weights", what, "", "pass the module of the weight: pack(weight, site)"))
        return super()._grid_of(shape, site, name)
