"""Bands of MinHash signatures: two documents are candidates if all rows of one band at least are equal.

Each value of two signatures is equal with a probability of J, the Jaccard similarity of their sets, so `bands` bands of
`rows` values find a pair with probability 1 - (1 - J**rows)**bands (Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, 3.4.2). More rows mean fewer candidates, more bands mean fewer missed pairs.

Shape suffixes: N documents, P permutations, B bands, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError

RECALL = 0.92
"""Wanted probability for a pair exactly at the threshold. Of 128 permutations and a threshold of 0.8 that makes 14 x 8,
which finds 0.98 of the pairs whose similarity is spread evenly from 0.8 to 0.9. datasketch weighs missed pairs and
candidates alike, which makes 9 x 13 and 0.68."""


@dataclass(frozen=True, slots=True)
class Banding:
    """The first `bands` x `rows` values of a signature, cut into bands."""

    bands: int
    rows: int

    def __str__(self) -> str:
        return f"{self.bands} x {self.rows}"

    @property
    def values(self) -> int:
        """Values of a signature that are used."""
        return self.bands * self.rows

    def probability(self, jaccard: float) -> float:
        """Of finding a pair of this similarity."""
        return 1 - (1 - jaccard**self.rows) ** self.bands

    def mean_probability(self, low: float, high: float, points: int = 200) -> float:
        """Of finding a pair whose similarity is spread evenly from `low` to `high`."""
        middles = low + (np.arange(points) + 0.5) * (high - low) / points
        return float(np.mean(1 - (1 - middles**self.rows) ** self.bands))

    def curve(self, points: int = 21) -> list[tuple[float, float]]:
        """(similarity, probability), evenly from 0 to 1."""
        return [(at, self.probability(at)) for at in np.linspace(0, 1, points).tolist()]

    def keys(self, signatures_NP: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
        """uint64 [N, B]: a number for each band, equal where all its rows are, and different with a probability of
        about 1 - 2**-63 where one is not, or where the bands are not the same. It is a constant of the band plus
        the sum of the rows times odd constants (multilinear hashing, modulo 2**64), so it is the same on every machine
        and can be stored."""
        constants = _odd_constants(self.values + self.bands)
        multipliers, offsets = constants[: self.values], constants[self.values :]
        keys_NB = np.empty((len(signatures_NP), self.bands), dtype=np.uint64)
        for band in range(self.bands):
            columns = slice(band * self.rows, (band + 1) * self.rows)
            keys_NB[:, band] = signatures_NP[:, columns].astype(np.uint64) @ multipliers[columns] + offsets[band]
        return keys_NB


def choose_banding(permutations: int, threshold: float, recall: float = RECALL) -> Banding:
    """The banding with the fewest candidates below the threshold, of those which find each pair at the threshold or
    above with a probability of `recall` at least.

    Candidates are counted as if similarities were spread evenly from 0 to the threshold. Raises `ProblemError` if
    `permutations` are too few.

    >>> str(choose_banding(128, 0.8))
    '14 x 8'
    """
    possible = [
        Banding(bands, rows) for rows in range(1, permutations + 1) for bands in range(1, permutations // rows + 1)
    ]
    enough = [banding for banding in possible if banding.probability(threshold) >= recall]
    if not enough:
        most = Banding(permutations, 1).probability(threshold)
        raise ProblemError(
            Problem(
                "invalid-value",
                f"{permutations} permutations find a pair of similarity {threshold:g} with a probability of "
                f"{most:.2g}, not {recall:g}",
                "recall",
                "use more permutations, a higher threshold or a lower recall",
            )
        )
    return min(enough, key=lambda banding: (banding.mean_probability(0, threshold), banding.values))


def _odd_constants(count: int) -> NDArray[np.uint64]:
    """Outputs of splitmix64 (Steele, Lea and Flood 2014) from 0, made odd; stored keys depend on them."""
    with np.errstate(over="ignore"):
        state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
