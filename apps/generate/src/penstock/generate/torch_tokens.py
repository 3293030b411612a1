"""The tokens of a model in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import nn

from penstock.generate.model import NextTokens, Sampling
from penstock.hooks.contracts import LanguageModel
from penstock.moe_core.layers.generation import next_tokens


def tokens_of(model: LanguageModel) -> NextTokens:
    """See `NextTokens`."""
    device = next(cast(nn.Module, model).parameters()).device

    def continued(prompt_tokens: Sequence[int], sampling: Sampling, tokens: int) -> Iterator[int]:
        return map(
            int,
            next_tokens(
                model,
                torch.tensor([list(prompt_tokens)], device=device),
                tokens=tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=sampling.seed,
            ),
        )

    return continued
