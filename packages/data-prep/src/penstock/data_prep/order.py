"""Which tokens are in batch number s: a pure function, so any step is reached at once and a resume is exact.

Epoch e visits the windows of a split in the order of a keyed permutation: a Feistel network on the smallest even number
of bits that can represent the number of windows, walked along its cycles until it lands inside (Black and Rogaway,
Ciphers with Arbitrary Finite Domains, 2002). Nothing is stored and nothing is shuffled: a step costs the same at the
start and after a billion steps.

Shape suffixes: B batch (the rows of one part), S sequence, N requested windows, R rounds.
"""

from __future__ import annotations

import numpy as np

from penstock.hooks.contracts import TokenSource
from penstock.hooks.problems import Problem, ProblemError

# Four rounds are the minimum for a strong pseudo-random permutation (Luby and Rackoff, 1988); with halves of a few
# bits more are needed to forget the key schedule, and eight still cost microseconds.
_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15


class TokenOrder:
    """Batches of windows of `sequence_length` + 1 tokens: inputs are `[:, :-1]`, targets `[:, 1:]`.

    Windows begin every `sequence_length` tokens, so each token except the first is a target once per epoch; up to
    `sequence_length` - 1 tokens after the last window are not used. A batch may span two epochs. `steps_per_epoch` is
    fractional if `batch_size` does not divide `windows`.
    """

    def __init__(self, split: TokenSource, *, sequence_length: int, batch_size: int, seed: int) -> None:
        if sequence_length < 1 or batch_size < 1:
            raise ValueError(f"sequence_length {sequence_length} and batch_size {batch_size} must be positive")
        self.windows = (split.tokens - 1) // sequence_length
        if self.windows < 1:
            what = f"{split.tokens} tokens are too few for one sequence of {sequence_length} and its target"
            raise ProblemError(Problem("too-few-tokens", what, "sequence_length", "shorten it or prepare more text"))
        self.tokens_per_step = batch_size * sequence_length
        self.steps_per_epoch = self.windows / batch_size
        self._split = split
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._seed = seed

    def batch(self, step: int, *, rank: int = 0, ranks: int = 1, part: int = 0, parts: int = 1) -> np.ndarray:
        """Part `part` of `parts` of rank `rank`'s share of batch `step`: int64 [batch_size / ranks / parts, S + 1].

        The shares of all ranks and parts, concatenated in that order, equal the batch of one rank and one part. Raises
        `ProblemError` if the batch does not divide evenly.
        """
        rows = self._rows(rank, ranks, part, parts)
        window_B = self.window(step * self._batch_size + np.arange(rows.start, rows.stop))
        length = self._sequence_length
        return np.stack([self._split.slice(start, start + length + 1) for start in (window_B * length).tolist()])

    def window(self, index_N: np.ndarray) -> np.ndarray:
        """Which window is number `index_N` (int64, from 0, across epochs) of the run."""
        epoch_N, position_N = np.divmod(index_N, self.windows)
        return permute(position_N, self.windows, keys(self._seed, epoch_N))

    def _rows(self, rank: int, ranks: int, part: int, parts: int) -> range:
        if not (0 <= rank < ranks and 0 <= part < parts):
            raise ValueError(f"rank {rank} of {ranks}, part {part} of {parts}: each must be below its count")
        rows, rest = divmod(self._batch_size, ranks * parts)
        if rest:
            what = f"a batch of {self._batch_size} does not divide evenly into {ranks} ranks of {parts} parts"
            fix = f"use a multiple of {ranks * parts}"
            raise ProblemError(Problem("indivisible-batch", what, "batch_size", fix))
        first = (rank * parts + part) * rows
        return range(first, first + rows)


def keys(seed: int, epoch_N: np.ndarray) -> np.ndarray:
    """A 64-bit key for each epoch of a run, uint64 [N]."""
    seed_key = _mix(np.array([seed % 2**64], dtype=np.uint64))
    return _mix(seed_key + epoch_N.astype(np.uint64) * np.uint64(_GOLDEN))


def permute(position_N: np.ndarray, size: int, key_N: np.ndarray) -> np.ndarray:
    """Where each position of [0, size) goes, int64 [N]: for any one key a bijection of [0, size)."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    round_key_RN = _mix(key_N + np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None] * np.uint64(_GOLDEN))
    out_N = _feistel(position_N.astype(np.uint64), half, round_key_RN)
    # The domain is at most 4 * size, so a walk ends after 4 steps on average and, being on a cycle through a position
    # inside, always.
    while (outside_N := np.flatnonzero(out_N >= size)).size:
        out_N[outside_N] = _feistel(out_N[outside_N], half, round_key_RN[:, outside_N])
    return out_N.astype(np.int64)


def _feistel(value_N: np.ndarray, half: int, round_key_RN: np.ndarray) -> np.ndarray:
    """A permutation of [0, 4**half) for each column of `_ROUNDS` keys."""
    mask = np.uint64((1 << half) - 1)
    left_N, right_N = value_N >> np.uint64(half), value_N & mask
    for key_N in round_key_RN:
        left_N, right_N = right_N, left_N ^ (_mix(key_N + right_N) & mask)
    return (left_N << np.uint64(half)) | right_N


def _mix(value_N: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection that scatters every bit."""
    value_N = (value_N ^ (value_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_N = (value_N ^ (value_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_N ^ (value_N >> np.uint64(31))
