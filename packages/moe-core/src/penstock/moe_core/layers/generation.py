"""Sampling from a model, with or without a cache; both give the same tokens.

Shape suffixes: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from penstock.hooks.contracts import Generative, Inputs
from penstock.hooks.problems import failed


def generate(
    model: Generative,
    inputs: Inputs | Tensor,
    *,
    tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_token: int | None = None,
    positions: int | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Continues each row of `inputs` by at most `tokens` tokens: [B, S + tokens] int64.

    Prompts of unequal length are padded on the left (`real_BS`); with greedy decoding each
    continues as it would alone; draws are one stream for all rows. `temperature`
    0 is greedy. `top_k` and `top_p` restrict sampling to the most likely tokens. After `stop_token` a row repeats it,
    and generation ends when every row has stopped; stop tokens in prompts are ignored. Draws come from a generator
    seeded with `seed`; the global one is not touched. The model's training mode is restored.
    Generation also ends when a row has as many tokens as the model has `positions`; raises ValueError for a prompt that
    leaves no room for one.
    """
    new = next_tokens(
        model,
        inputs,
        tokens=tokens if positions is None else min(tokens, _room(Inputs.of(inputs), positions)),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_token=stop_token,
        use_cache=use_cache,
    )
    return torch.cat((Inputs.of(inputs).token_BS, *(next_B[:, None] for next_B in new)), dim=1)


def _room(inputs: Inputs, positions: int) -> int:
    """How many tokens fit behind the longest prompt; at least one."""
    longest = inputs.token_BS.shape[1] if inputs.real_BS is None else int(inputs.real_BS.sum(dim=1).max())
    if longest >= positions:
        raise ValueError(f"the prompt has {longest} tokens, but the model reads at most {positions}: shorten it")
    return positions - longest


@torch.no_grad()
def next_tokens(
    model: Generative,
    inputs: Inputs | Tensor,
    *,
    tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_token: int | None = None,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """The new tokens of `generate` as they come: [B] int64, at most `tokens` times. The model is in evaluation mode
    until the iterator ends or is closed."""
    inputs = Inputs.of(inputs)
    inputs.require_only("generation", "real_BS")
    token_BS, real_BS = inputs.token_BS, inputs.real_BS
    if token_BS.shape[1] == 0:
        raise ValueError("generation needs at least one token to start from, for example the end-of-text token")
    if real_BS is not None and not real_BS[:, -1].all():
        raise ValueError("prompts are padded on the right: put padding on the left")
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            f"temperature ({temperature}) must be >= 0, top_k ({top_k}) >= 1 and top_p ({top_p}) in (0, 1]"
        )
    generator = torch.Generator().manual_seed(seed)  # of the CPU, whatever the model is on: a seed is one text
    was_training = model.training
    model.train(False)
    cache = model.new_cache(token_BS.shape[0], token_BS.shape[1] + tokens) if use_cache else None
    stopped_B = torch.zeros(token_BS.shape[0], dtype=torch.bool, device=token_BS.device)
    fresh = inputs
    try:
        for _ in range(tokens):
            hidden_BSD = model(fresh, cache=cache).hidden_BSD
            next_B = sample(model.logits(hidden_BSD[:, -1]), temperature, top_k, top_p, generator)
            if stop_token is not None:
                next_B = torch.where(stopped_B, stop_token, next_B)
                stopped_B |= next_B == stop_token
            yield next_B
            if stop_token is not None and stopped_B.all():
                break
            token_BS = torch.cat((token_BS, next_B[:, None]), dim=1)
            fresh = Inputs(next_B[:, None]) if cache is not None else Inputs(token_BS, _continued(real_BS, token_BS))
    finally:
        model.train(was_training)


def _continued(real_BS: Tensor | None, token_BS: Tensor) -> Tensor | None:
    """`real_BS` for a text extended on the right by real tokens."""
    if real_BS is None:
        return None
    return torch.nn.functional.pad(real_BS, (0, token_BS.shape[1] - real_BS.shape[1]), value=True)


def sample(
    logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> Tensor:
    """One token per row [B], from fp32 logits [B, V]; `temperature` 0 takes the likeliest.

    A row draws one uniform number. Its token is the first, in order of falling probability and then of id, with which
    the sum of the probabilities that `top_k` and `top_p` leave exceeds that share of their whole. The decoder of
    artifacts (penstock.quant158) does the same, so a seed gives one text. Raises `ProblemError` for logits whose
    largest is not finite: no token follows from them.
    """
    largest_B1 = logits_BV.amax(dim=-1, keepdim=True)
    if not bool(largest_B1.isfinite().all()):
        what, fix = "the model computed logits that are NaN or infinite", "use a checkpoint from before it diverged"
        raise failed("not-finite", what, "", fix)
    if temperature == 0.0:
        return logits_BV.argmax(dim=-1)
    share_B1 = torch.rand(len(logits_BV), 1, dtype=torch.float64, generator=generator, device=generator.device)
    return drawn(logits_BV, temperature, top_k, top_p, share_B1)


def drawn(logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float | None, share_B1: Tensor) -> Tensor:
    """The tokens [B] that numbers from [0, 1) draw: see `sample`. `share_B1` is on the CPU, where they are drawn."""
    device = logits_BV.device
    weight_BV = ((logits_BV - logits_BV.amax(dim=-1, keepdim=True)).to(share_B1.device) / temperature).exp()
    weight_BV, token_BV = weight_BV.double().sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        weight_BV[:, top_k:] = 0.0
    upto_BV = weight_BV.cumsum(dim=-1)
    if top_p is not None:
        before_BV = torch.nn.functional.pad(upto_BV[:, :-1], (1, 0))  # the likeliest token always stays
        weight_BV = weight_BV.masked_fill(before_BV >= top_p * upto_BV[:, -1:], 0.0)
        upto_BV = weight_BV.cumsum(dim=-1)
    rank_B1 = (upto_BV <= share_B1 * upto_BV[:, -1:]).sum(dim=-1, keepdim=True)
    last_B1 = (weight_BV > 0).sum(dim=-1, keepdim=True) - 1  # if rounding leaves the sum at its bound
    return token_BV.gather(1, rank_B1.minimum(last_B1)).squeeze(1).to(device)
