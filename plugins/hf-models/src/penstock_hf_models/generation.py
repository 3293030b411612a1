"""Sampling from a causal model, one call of it a token, with its cache or without; both give the same tokens.

Shape suffixes: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

if TYPE_CHECKING:
    from penstock_hf_models.model import CausalModel


@torch.no_grad()
def generate(
    model: CausalModel,
    token_BS: Tensor,
    *,
    tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_token: int | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Continues each row of `token_BS` by at most `tokens` tokens: [B, S + tokens] int64.

    `temperature` 0 is greedy; `top_k` and `top_p` restrict sampling to the most likely tokens. A row that reached
    `stop_token` repeats it, and generation ends when every row has. Draws come from a generator of their own. The
    model's training mode is restored.
    """
    if token_BS.shape[1] == 0:
        raise ValueError("generation needs at least one token to start from, for example the end-of-text token")
    warp = _warpers(temperature, top_k, top_p)
    generator = torch.Generator(device=token_BS.device).manual_seed(seed)
    was_training = model.training
    model.eval()
    cache: Any = model.new_cache(token_BS.shape[0], token_BS.shape[1] + tokens) if use_cache else None
    fresh_BS = token_BS
    try:
        for _ in range(tokens):
            hidden_BSD = model(token_BS if cache is None else fresh_BS, cache=cache).hidden_BSD
            next_B = _sample(model.logits(hidden_BSD[:, -1]), token_BS, warp, generator)
            if stop_token is not None:
                ended_B = (token_BS[:, -1] == stop_token) & (fresh_BS.shape[1] == 1)
                next_B = torch.where(ended_B, stop_token, next_B)
            fresh_BS = next_B[:, None]
            token_BS = torch.cat((token_BS, fresh_BS), dim=1)
            if stop_token is not None and bool((next_B == stop_token).all()):
                break
    finally:
        model.train(was_training)
    return token_BS


def _warpers(temperature: float, top_k: int | None, top_p: float | None) -> LogitsProcessorList | None:
    """None is greedy; transformers checks the numbers and raises ValueError."""
    if temperature == 0.0:
        return None
    warpers: list[Any] = [TemperatureLogitsWarper(float(temperature))]
    warpers += [TopKLogitsWarper(top_k)] if top_k is not None else []
    warpers += [TopPLogitsWarper(top_p)] if top_p is not None else []
    return LogitsProcessorList(warpers)


def _sample(
    logits_BV: Tensor, token_BS: Tensor, warp: LogitsProcessorList | None, generator: torch.Generator
) -> Tensor:
    if warp is None:
        return logits_BV.argmax(dim=-1)
    return torch.multinomial(warp(token_BS, logits_BV).softmax(dim=-1), 1, generator=generator).squeeze(1)  # pyright: ignore
