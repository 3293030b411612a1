"""Training that goes from full precision to the format over a number of tokens, for models that are trained already.

The weight is w + share * (q(w) - w), where the share goes from 0 to 1 (the schedules of Hugging Face's 1.58-bit
fine-tuning of Llama 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.quant158.config import Warmup


class WarmingUp(nn.Module):
    """The site of a quantizer, mixed with full precision. The share is a buffer, so a checkpoint computes as the run
    did."""

    share: Tensor

    def __init__(self, site: nn.Module, warmup: Warmup) -> None:
        super().__init__()
        self.site, self.warmup = site, warmup
        self.register_buffer("share", torch.zeros(()))

    def set_tokens(self, tokens: int) -> None:
        self.share.fill_(self.warmup.share(tokens))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.lerp(weight, self.site(weight), self.share.to(weight.dtype))  # exactly q(w) at 1

    def fault(self, weight: Tensor) -> str | None:
        fault = getattr(self.site, "fault", None)
        return None if fault is None else fault(weight)
