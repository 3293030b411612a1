"""The default: a cell stops when a cell that costs no more is surely better on the same documents.

Documents differ more from each other than cells do, so the difference is taken document by document, and its standard
error is that of a ratio of sums over documents (Cochran, Sampling Techniques, 1977, section 6.4). Bits per byte compare
cells of any tokenizer.

Shape suffix: P pieces of the held-out text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from penstock.hooks.contracts.stopping import Standing
from penstock.sweep.finalists import finalists
from penstock.sweep.heldout import FEWEST_PIECES
from penstock.sweep.rules.order import best, cheaper


@dataclass(frozen=True, slots=True)
class Difference:
    """Bits per byte of one cell above another's, with the standard error over documents."""

    mean: float
    error: float


class Paired:
    """Stops a cell whose difference to the best of the cells that cost no more lies above what it may still catch up,
    with all of its interval; and of those that are left, what `finalists` does not choose among a share of `keep`, or
    among `fewest` if that is more.

    The interval has the spread over documents and that over seeds, `seed_noise`. The probability of an error is spent
    over the looks, 6/pi^2 of it at the first, a quarter of that at the second, a ninth at the third, and evenly over
    the ordered pairs of the cells of a look (Bonferroni), because the best is chosen by the same results. So it holds
    for the whole sweep. A share that does not go on has no such promise: it is there because tokens are short.
    """

    def __init__(
        self,
        *,
        confidence: float = 0.95,
        seed_noise: float = 0.01,
        catch_up: float = 0.05,
        keep: float = 0.4,
        fewest: int = 8,
    ) -> None:
        self.confidence, self.seed_noise, self.catch_up = confidence, seed_noise, catch_up
        self.keep, self.fewest = keep, fewest

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        reasons: dict[str, str] = {}
        for standing in sorted(standings, key=lambda standing: standing.cell):
            other = best(cheaper(standing, standings))
            if other is None or len(standing.document_bits) < FEWEST_PIECES:
                continue
            found = difference(standing, other)
            seeds = self.seed_noise**2 * (1 / standing.seeds + 1 / other.seeds)
            reach = deviations(self.confidence, rung, len(standings)) * math.sqrt(found.error**2 + seeds)
            if found.mean - reach > self._may_catch_up(standing):
                reasons[standing.cell] = f"{found.mean:.3f} ± {reach:.3f} bits per byte behind {other.cell}"
        left = [each for each in standings if each.cell not in reasons]
        return reasons | self._beyond_the_share(left, len(standings))

    def _may_catch_up(self, standing: Standing) -> float:
        return self.catch_up * math.log2(max(standing.whole, standing.tokens) / standing.tokens)

    def _beyond_the_share(self, left: Sequence[Standing], count: int) -> dict[str, str]:
        going = finalists(left, max(self.fewest, math.ceil(self.keep * count)))
        reason = "{bits:.4f} bits per byte, not among the {kept} of {count} that go on"
        return {
            each.cell: reason.format(bits=each.bits_per_byte, kept=len(going), count=count)
            for each in left
            if each.cell not in going
        }


def difference(one: Standing, other: Standing) -> Difference:
    """
    >>> byte_P = np.array([100.0, 100.0])
    >>> one, other = (Standing("", 1, 0.0, 0.0, byte_P * rate, byte_P, "") for rate in (2.5, 2.0))
    >>> difference(one, other)
    Difference(mean=0.5, error=0.0)
    """
    bits_P, byte_P = np.subtract(one.document_bits, other.document_bits), np.asarray(one.document_bytes)
    pieces, total = len(byte_P), float(byte_P.sum())
    mean = float(bits_P.sum()) / total
    variance = float(((bits_P - mean * byte_P) ** 2).sum()) * pieces / max(1, pieces - 1)
    return Difference(mean, math.sqrt(variance) / total)


def deviations(confidence: float, rung: int, cells: int) -> float:
    """How many standard errors the interval of a difference reaches at a look at so many cells.

    >>> round(deviations(0.95, 0, 2), 2), round(deviations(0.95, 1, 48), 2)
    (2.16, 4.5)
    """
    error = (1 - confidence) * 6 / (math.pi * (rung + 1)) ** 2 / (cells * (cells - 1))
    return NormalDist().inv_cdf(1 - error)
