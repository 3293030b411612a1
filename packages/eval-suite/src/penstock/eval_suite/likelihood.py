"""Negative log-likelihood of every token of a stream, by disjoint or sliding windows.

The start of a window decides how much context its first tokens have, and so affects the result: GPT-2 on WikiText-2 is
37.4 or 29.9 by two common conventions. So windows are explicit here, and `window_convention` names them in metrics.

Shape suffixes: N tokens of the stream, B windows of a batch, S positions of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from penstock.hooks.contracts import BatchDependentRouter, LanguageModel, PartlyFrozen

Progress = Callable[[int, int], None]

HEAD_ROWS = 1024
"""Positions whose logits are held at once: 0.2 GB in fp32 at 50,257 tokens, and as much again for their logarithms."""


@dataclass(frozen=True, slots=True)
class Window:
    """The model reads tokens `start .. end - 1` and predicts the token after each; predictions from position
    `scored` on count."""

    start: int
    scored: int
    end: int


def windows(positions: int, sequence_length: int, stride: int | None = None) -> list[Window]:
    """Windows of at most `sequence_length` that score each of `positions` predictions exactly once.

    `stride` None (or equal to `sequence_length`): disjoint, each prediction sees only its own window, and the last
    window may be short. A smaller `stride`: sliding; each window moves by `stride` and scores only new predictions, so
    that every prediction past the first window sees at least `sequence_length - stride` tokens; the last window moves
    by less and stays full.
    """
    stride = sequence_length if stride is None else stride
    if not 1 <= stride <= sequence_length:
        raise ValueError(f"stride must be from 1 to sequence_length ({sequence_length}), not {stride}")
    if stride == sequence_length:
        return [Window(at, at, min(at + sequence_length, positions)) for at in range(0, positions, sequence_length)]
    first = min(sequence_length, positions)
    result = [Window(0, 0, first)] if positions else []
    for scored in range(first, positions, stride):
        end = min(scored + stride, positions)
        result.append(Window(end - sequence_length, scored, end))
    return result


def window_convention(sequence_length: int, stride: int | None = None) -> str:
    """The name of the convention in metrics.

    >>> window_convention(256), window_convention(256, 64)
    ('disjoint-256', 'sliding-256-stride-64')
    """
    if stride is None or stride == sequence_length:
        return f"disjoint-{sequence_length}"
    return f"sliding-{sequence_length}-stride-{stride}"


def token_nll(
    model: LanguageModel,
    tokens: NDArray[np.integer],
    *,
    sequence_length: int,
    batch_size: int = 16,
    stride: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Negative log-likelihood in nats of `tokens[1:]`: float64 [N - 1]. The first token is context only.

    Runs in evaluation mode without gradients and restores the model's mode. `progress(done, total)` is called after
    each batch with numbers of predictions. Batches do not change the result beyond rounding: windows never see each
    other, and short ones are padded on the right, which a causal model never sees. A model whose routers depend on the
    batch (`depends_on_batch`) reads one window at a time.

    Raises ValueError for fewer than two tokens, for ids outside the vocabulary and for an impossible stride.
    """
    token_N = np.asarray(tokens)
    if token_N.ndim != 1 or len(token_N) < 2:
        raise ValueError(f"token_nll needs a stream of at least two tokens, not shape {token_N.shape}")
    if token_N.min() < 0 or token_N.max() >= model.vocabulary_size:
        raise ValueError(f"the stream has ids outside 0..{model.vocabulary_size - 1}: is this the model's tokenizer?")
    positions, done = len(token_N) - 1, 0
    nll_N = np.full(positions, np.nan)
    plan = windows(positions, sequence_length, stride)
    with evaluating(model):
        for first in range(0, len(plan), batch_size):
            batch = plan[first : first + batch_size]
            rows = [token_N[window.start : window.end + 1] for window in batch]
            scored = window_nll(model, rows, [window.scored - window.start for window in batch])
            for window, nll_S in zip(batch, scored, strict=True):
                nll_N[window.scored : window.end] = nll_S
            done += sum(window.end - window.scored for window in batch)
            if progress is not None:
                progress(done, positions)
    return nll_N


@torch.inference_mode()
def window_nll(
    model: LanguageModel, token_rows: Sequence[NDArray[np.integer]], scored: Sequence[int]
) -> list[NDArray[np.float64]]:
    """One batch: for each row of tokens, the negative log-likelihood of `row[1 + scored:]` given all tokens before.

    The model is in evaluation mode. Rows may have unequal lengths: short ones are padded on the right, which a causal
    model never sees; or rows are read one at a time, where they would compete for experts. The head computes what
    counts alone.
    """
    if len(token_rows) > 1 and depends_on_batch(model):
        return [window_nll(model, [row], [first])[0] for row, first in zip(token_rows, scored, strict=True)]
    if any(scored):
        likelihood_N, _ = head(model, scored_hidden(model, token_rows, scored), targets_of(token_rows, scored))
        ends = np.cumsum([len(row) - 1 - first for row, first in zip(token_rows, scored, strict=True)])
        return np.split(likelihood_N, ends[:-1])
    token_BS = padded([row[:-1] for row in token_rows])
    target_BS = padded([row[1:] for row in token_rows])
    lengths = [len(row) - 1 for row in token_rows]
    mask_BS = np.arange(token_BS.shape[1]) < np.array(lengths)[:, None]
    device = device_of(model)
    output = model.next_token_loss(*(torch.from_numpy(array).to(device) for array in (token_BS, target_BS, mask_BS)))
    nll_BS = output.nll_BS.double().cpu().numpy()
    return [nll_BS[number, :length] for number, length in enumerate(lengths)]


def scored_hidden(
    model: LanguageModel, token_rows: Sequence[NDArray[np.integer]], scored: Sequence[int]
) -> torch.Tensor:
    """The hidden states [N, D] of the positions from `scored` on that predict a token of their row, one row after the
    other."""
    token_BS = torch.from_numpy(padded([row[:-1] for row in token_rows])).to(device_of(model))
    hidden_BSD = model(token_BS).hidden_BSD
    rows = enumerate(zip(token_rows, scored, strict=True))
    return torch.cat([hidden_BSD[number, first : len(row) - 1] for number, (row, first) in rows])


def targets_of(token_rows: Sequence[NDArray[np.integer]], scored: Sequence[int]) -> NDArray[np.int64]:
    """The token [N] that each of these positions predicts."""
    return np.concatenate([row[first + 1 :] for row, first in zip(token_rows, scored, strict=True)]).astype(np.int64)


def head(
    model: LanguageModel,
    hidden_ND: torch.Tensor,
    target_M: NDArray[np.int64],
    position_M: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Nats of each target, and whether it is the likeliest token, of the hidden states `position_M` (None: of each, in
    their order)."""
    position_M = np.arange(len(target_M)) if position_M is None else position_M
    nll_M, likeliest_M = np.empty(len(target_M)), np.empty(len(target_M), dtype=np.bool_)
    for start in range(0, len(hidden_ND), HEAD_ROWS):
        (inside,) = np.nonzero((position_M >= start) & (position_M < start + HEAD_ROWS))
        log_NV = model.logits(hidden_ND[start : start + HEAD_ROWS]).log_softmax(dim=-1)
        at, target = (torch.from_numpy(each[inside]).to(log_NV.device) for each in (position_M - start, target_M))
        nll_M[inside] = -log_NV[at, target].double().cpu().numpy()
        likeliest_M[inside] = (log_NV.argmax(dim=-1)[at] == target).cpu().numpy()
    return nll_M, likeliest_M


def padded(rows: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """[B, S], with zeros behind the shorter rows."""
    token_BS = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for number, row in enumerate(rows):
        token_BS[number, : len(row)] = row
    return token_BS


def depends_on_batch(model: LanguageModel) -> bool:
    """Whether a router of the model, or of its frozen base, may choose other experts for a token among other tokens."""
    return bool(batch_dependent_routers(model))


def batch_dependent_routers(model: LanguageModel) -> list[str]:
    """Those routers, such as `ExpertChoice in layer 1`; of a frozen base, `ExpertChoice in layer 1 of the base`."""
    routers = getattr(model, "routers", {})  # a model that only predicts lacks the attribute
    found = [
        f"{type(router).__name__} in layer {layer}"
        for layer, router in routers.items()
        if isinstance(router, BatchDependentRouter) and router.depends_on_batch
    ]
    base = batch_dependent_routers(model.base) if isinstance(model, PartlyFrozen) else []
    return found + [f"{each} of the base" for each in base]


def device_of(model: LanguageModel) -> torch.device:
    return next(cast(nn.Module, model).parameters()).device


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Puts the model in evaluation mode, and restores its mode afterwards."""
    module = cast(nn.Module, model)
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
