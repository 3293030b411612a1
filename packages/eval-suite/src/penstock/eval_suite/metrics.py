"""Figures from per-token negative log-likelihoods in nats.

Bits per byte compares models with different vocabularies on the same text. Perplexities do not; they are here because
papers quote them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating] | NDArray[np.integer] | Sequence[float]


def bits_per_byte(nll_nats: Numbers, byte_count: int) -> float:
    """Bits that the model needs for each byte of the text. `byte_count` counts only the bytes of the scored tokens."""
    if byte_count < 1:
        raise ValueError(f"bits per byte needs at least one byte, not {byte_count}")
    return float(np.sum(nll_nats, dtype=np.float64)) / math.log(2) / byte_count


def token_perplexity(nll_nats: Numbers) -> float:
    """exp of the mean over tokens. Depends on the tokenizer."""
    return _exp(float(np.mean(nll_nats, dtype=np.float64)))


def word_perplexity(nll_nats: Numbers, word_count: int) -> float:
    """exp of the sum over words. Depends on what counts as a word: see `count_words`."""
    if word_count < 1:
        raise ValueError(f"word perplexity needs at least one word, not {word_count}")
    return perplexity(nll_nats, word_count)


def perplexity(nll_nats: Numbers, count: float) -> float:
    """Returns exp(sum of `nll_nats` / `count`), where `count` is a number of tokens, words or bytes. The result is
    infinite if `count` is 0 or the value exceeds a float."""
    return _exp(float(np.sum(nll_nats, dtype=np.float64)) / count) if count else math.inf


def count_words(text: str) -> int:
    """Words as lm-evaluation-harness counts them: the parts of a split at whitespace, empty ends included."""
    return len(re.split(r"\s+", text))


def bits_per_byte_standard_error(nll_nats: Numbers, byte_counts: Numbers, block: Numbers) -> float | None:
    """Standard error of bits per byte when blocks of tokens (documents, windows) are the independent samples.

    All three are [N]; `block` numbers the block of each token. It uses the ratio estimator: tokens of one document are
    similar, so an error over single tokens would be too small. None for fewer than two blocks.
    """
    _, index_N = np.unique(np.asarray(block), return_inverse=True)
    bits_K = np.bincount(index_N, weights=np.asarray(nll_nats, dtype=np.float64)) / math.log(2)
    bytes_K = np.bincount(index_N, weights=np.asarray(byte_counts, dtype=np.float64))
    blocks = len(bits_K)
    if blocks < 2:
        return None
    residual_K = bits_K - bits_K.sum() / bytes_K.sum() * bytes_K
    return float(math.sqrt(blocks / (blocks - 1) * np.square(residual_K).sum()) / bytes_K.sum())


def _exp(value: float) -> float:
    return math.inf if value >= 700 else math.exp(value)  # NaN stays NaN
