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
    model never sees; or rows are read one at a time, where they would compete for experts.
    """
    if len(token_rows) > 1 and depends_on_batch(model):
        return [window_nll(model, [row], [first])[0] for row, first in zip(token_rows, scored, strict=True)]
    lengths = [len(row) - 1 for row in token_rows]
    token_BS = np.zeros((len(token_rows), max(lengths)), dtype=np.int64)
    target_BS = np.zeros_like(token_BS)
    mask_BS = np.zeros(token_BS.shape, dtype=bool)
    for number, (row, first, length) in enumerate(zip(token_rows, scored, lengths, strict=True)):
        token_BS[number, :length] = row[:-1]
        target_BS[number, :length] = row[1:]
        mask_BS[number, first:length] = True
    device = device_of(model)
    output = model.next_token_loss(*(torch.from_numpy(array).to(device) for array in (token_BS, target_BS, mask_BS)))
    nll_BS = output.nll_BS.double().cpu().numpy()
    return [nll_BS[number, first:length] for number, (first, length) in enumerate(zip(scored, lengths, strict=True))]


def depends_on_batch(model: LanguageModel) -> bool:
    """Whether a router of the model, or of its frozen base, may choose other experts for a token among other tokens."""
    routers = getattr(model, "routers", {}).values()  # of a model that only predicts, there are none to ask
    if any(isinstance(router, BatchDependentRouter) and router.depends_on_batch for router in routers):
        return True
    return isinstance(model, PartlyFrozen) and depends_on_batch(model.base)


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
