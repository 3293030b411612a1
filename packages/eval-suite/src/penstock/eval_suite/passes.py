"""The computation of a model for one batch of rows of the same kind.

Shape suffixes: B rows, S positions, D model width, N scored positions of all rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.eval_suite.likelihood import depends_on_batch, device_of, window_nll
from penstock.eval_suite.rows import Output, Row
from penstock.hooks.contracts import (
    Generate,
    LanguageModel,
    Likelihood,
    LikelihoodAnswer,
    Request,
    Rolling,
    Tokenizer,
)
from penstock.hooks.problems import Problem, ProblemError

HEAD_ROWS = 1024
"""Positions whose logits are held at once: 0.2 GB in fp32 at 50,257 tokens."""


def compute(model: LanguageModel, rows: Sequence[Row], tokenizer: Tokenizer) -> Sequence[Output]:
    """The output of each row. All rows have the same kind, and prompts the same length. The model is in evaluation
    mode. If its routers depend on the batch, it reads one row at a time. Raises `ProblemError` if a token is not in the
    model's vocabulary."""
    require_vocabulary(model, min(int(row.token_S.min()) for row in rows), max(int(row.token_S.max()) for row in rows))
    together = 1 if depends_on_batch(model) else len(rows)
    batches = (rows[start : start + together] for start in range(0, len(rows), together))
    return [output for batch in batches for output in _COMPUTE[batch[0].kind](model, batch, tokenizer)]


def _windows(model: LanguageModel, rows: Sequence[Row], tokenizer: Tokenizer) -> Sequence[Output]:
    return window_nll(model, [row.token_S for row in rows], [row.scored for row in rows])


@torch.inference_mode()
def _continuations(model: LanguageModel, rows: Sequence[Row], tokenizer: Tokenizer) -> Sequence[Output]:
    """Computes the head only for the positions that predict a continuation."""
    hidden_ND = scored_hidden(model, rows)
    target_N = torch.from_numpy(targets_of(rows)).to(hidden_ND.device)
    nll_N, likeliest_N = _head(model, hidden_ND, target_N)
    ends = np.cumsum([len(row.token_S) - 1 - row.scored for row in rows])[:-1]
    return [
        LikelihoodAnswer(float(nll.sum()), bool(likeliest.all()))
        for nll, likeliest in zip(np.split(nll_N, ends), np.split(likeliest_N, ends), strict=True)
    ]


def scored_hidden(model: LanguageModel, rows: Sequence[Row]) -> torch.Tensor:
    """The hidden states of the scored positions of all rows, one row after the other."""
    token_BS = np.zeros((len(rows), max(len(row.token_S) for row in rows) - 1), dtype=np.int64)
    for number, row in enumerate(rows):
        token_BS[number, : len(row.token_S) - 1] = row.token_S[:-1]
    hidden_BSD = model(torch.from_numpy(token_BS).to(device_of(model))).hidden_BSD
    return torch.cat([hidden_BSD[number, row.scored : len(row.token_S) - 1] for number, row in enumerate(rows)])


def targets_of(rows: Sequence[Row]) -> NDArray[np.int64]:
    """The token that each scored position predicts, one row after the other."""
    return np.concatenate([row.token_S[row.scored + 1 :] for row in rows]).astype(np.int64)


def require_vocabulary(model: LanguageModel, smallest: int, largest: int) -> None:
    """Raises `ProblemError` if one of the tokens is not in the model's vocabulary."""
    if smallest < 0 or largest >= model.vocabulary_size:
        token = smallest if smallest < 0 else largest
        what = f"token {token} is outside the model's vocabulary of {model.vocabulary_size}"
        raise ProblemError(Problem("vocabulary-mismatch", what, "tokenizer", "use the tokenizer of the model"))


def _head(model: LanguageModel, hidden_ND: torch.Tensor, target_N: torch.Tensor) -> tuple[Any, Any]:
    """Nats of each target, float64, and whether it is the likeliest token."""
    nll_parts, likeliest_parts = [], []
    for part_ND, part_N in zip(hidden_ND.split(HEAD_ROWS), target_N.split(HEAD_ROWS), strict=True):
        logits_NV = model.logits(part_ND)
        nll_parts.append(torch.nn.functional.cross_entropy(logits_NV, part_N, reduction="none").double())
        likeliest_parts.append(logits_NV.argmax(dim=-1) == part_N)
    return torch.cat(nll_parts).cpu().numpy(), torch.cat(likeliest_parts).cpu().numpy()


@torch.inference_mode()
def _generations(model: LanguageModel, rows: Sequence[Row], tokenizer: Tokenizer) -> Sequence[Output]:
    """All prompts have the same length, so models need no padding."""
    token_BS = torch.from_numpy(np.stack([row.token_S for row in rows]).astype(np.int64)).to(device_of(model))
    stop_token = tokenizer.end_of_text
    continued_BS = model.generate(token_BS, tokens=rows[0].new_tokens, temperature=0.0, stop_token=stop_token)
    new_BS = continued_BS[:, token_BS.shape[1] :].tolist()
    return [new[: new.index(stop_token)] if stop_token in new else new for new in new_BS]


_COMPUTE: Mapping[type[Request], Callable[[LanguageModel, Sequence[Row], Tokenizer], Sequence[Output]]] = {
    Rolling: _windows,
    Likelihood: _continuations,
    Generate: _generations,
}
