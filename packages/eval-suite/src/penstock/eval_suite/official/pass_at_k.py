"""The share of problems that at least one of k attempts solves."""

from __future__ import annotations

import math


def pass_at_k(attempts: int, solved: int, k: int) -> float:
    """The unbiased estimate from more than k attempts at one problem (https://arxiv.org/abs/2107.03374, equation 1):
    the probability that k of them, drawn without replacement, hold one that is solved. Of many problems, take the mean.
    Raises ValueError unless 0 <= solved <= attempts and 1 <= k <= attempts.

    >>> pass_at_k(attempts=10, solved=3, k=1)
    0.3
    """
    if not 0 <= solved <= attempts or not 1 <= k <= attempts:
        raise ValueError(f"{solved} of {attempts} attempts solved, k = {k}: 0 to {attempts}, and 1 to {attempts}")
    drawn = math.comb(attempts, k)
    return (drawn - math.comb(attempts - solved, k)) / drawn
