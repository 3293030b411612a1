"""What experts are for: which domains they prefer, and which of them work together.

Even load does not show what experts have learned: identical experts are evenly loaded too. So load is separated from
specialisation, the dependence of the chosen expert on the domain of the token. Both are computed from counts, and the
null hypothesis is a router that ignores the domain.

A router of random weights depends on the domain too, because domains have different words and it sends each word to the
same experts. So a layer is called specialised only if it depends on the domain by more than routers that give each
token id experts at random (`word_information`).

Shape suffixes: M domains, E experts, N tokens, K experts per token, V token ids that occur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.traces import chi_squared
from penstock.traces.load import max_violation

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

CONFIDENCE = 0.95
EVEN_BELOW = 0.1
"""Largest MaxVio that counts as even load: balancing by bias or by a global loss reaches it on our quickstart model."""
TELLS_FROM_BITS = 0.01
"""Smallest information of one assignment about its domain, in bits, that counts as specialised. With many tokens, any
difference is significant. OLMoE's layers have 0.16 to 0.43 bits, Mixtral's 0.003 to 0.009."""
NUMBERS_AT_ONCE = 2**22
"""Elements per chunk of rows with E columns per token: 32 MB, for any length of text and any number of experts."""


def coactivation(expert_NK: NDArray[np.integer[Any]], experts: int) -> Counts:
    """int64 [E, E]: the tokens that chose both experts; on the diagonal, those that chose the expert at all."""
    both_EE = np.zeros((experts, experts), dtype=np.int64)
    tokens_at_once = max(1, NUMBERS_AT_ONCE // experts)
    for first in range(0, len(expert_NK), tokens_at_once):
        part_NK = expert_NK[first : first + tokens_at_once]
        chosen_NE = np.zeros((len(part_NK), experts), dtype=np.float64)
        chosen_NE[np.arange(len(part_NK))[:, None], part_NK] = 1
        both_EE += np.rint(chosen_NE.T @ chosen_NE).astype(np.int64)
    return both_EE


def expected_meetings(both_EE: Counts) -> Floats:
    """How often each two experts would meet if they met in proportion to how often each is chosen, with the same total
    number of meetings; 0 on the diagonal."""
    alone_E = np.diag(both_EE).astype(np.float64)
    expected_EE = np.outer(alone_E, alone_E)
    np.fill_diagonal(expected_EE, 0)
    meetings = int(both_EE.sum()) - int(np.diag(both_EE).sum())
    return expected_EE * (meetings / expected_EE.sum()) if expected_EE.any() else expected_EE


def coactivation_lift(both_EE: Counts) -> Floats:
    """How often two experts meet over `expected_meetings`: above 1 they go together, below 1 they avoid each other.

    nan on the diagonal and for experts that are never chosen; nan everywhere if no token has two experts.
    """
    expected_EE = expected_meetings(both_EE)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected_EE > 0, both_EE / expected_EE, math.nan)


def closest_pairs(both_EE: Counts, most: int = 5) -> list[dict[str, Any]]:
    """The pairs that meet more often than by chance, the most certain first: ranked by excess over standard deviation,
    which for a Poisson count is the root of the expected count."""
    expected_EE = np.triu(expected_meetings(both_EE))
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise_EE = np.where(expected_EE > 0, (both_EE - expected_EE) / np.sqrt(expected_EE), -math.inf)
    pairs = [np.unravel_index(index, both_EE.shape) for index in np.argsort(-surprise_EE, axis=None)[:most]]
    return [
        {
            "experts": [int(each) for each in pair],
            "tokens": int(both_EE[pair]),
            "lift": float(both_EE[pair] / expected_EE[pair]),
        }
        for pair in pairs
        if surprise_EE[pair] > 0
    ]


def dependence_lift(count_EE: Counts) -> Floats:
    """How often each pair of a row and a column occurs, divided by its frequency if they were independent; nan for an
    empty row or column."""
    expected_EE = np.outer(count_EE.sum(axis=1), count_EE.sum(axis=0)) / max(int(count_EE.sum()), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected_EE > 0, count_EE / expected_EE, math.nan)


def wilson_interval(successes: Counts, trials: NDArray[Any], confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
    """Bounds of a binomial probability (Wilson 1927), elementwise; 0 to 1 if there are no trials."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    trials = np.asarray(trials, dtype=np.float64)
    n = np.maximum(trials, 1)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.where(trials > 0, low, 0.0), np.where(trials > 0, high, 1.0)


def mutual_information(count_ME: Counts | Floats) -> float:
    """Information of an assignment's expert about its domain, in bits; 0 for independence and for an empty table."""
    total = float(count_ME.sum())
    if total == 0:
        return 0.0
    joint_ME = count_ME / total
    independent_ME = np.outer(joint_ME.sum(axis=1), joint_ME.sum(axis=0))
    seen = joint_ME > 0
    return max(0.0, float((joint_ME[seen] * np.log2(joint_ME[seen] / independent_ME[seen])).sum()))


def independent_information(count_ME: Counts, confidence: float = CONFIDENCE) -> float:
    """The bits that `mutual_information` stays below with this confidence if the expert does not depend on the domain:
    2 N ln 2 times it is chi-squared with (M - 1)(E - 1) degrees (Wilks 1938), counting the domains and experts that
    occur. It treats assignments as independent, so it is a lower bound if tokens of a document are similar."""
    total = int(count_ME.sum())
    degrees = (np.count_nonzero(count_ME.sum(axis=1)) - 1) * (np.count_nonzero(count_ME.sum(axis=0)) - 1)
    if total == 0 or degrees < 1:
        return 0.0
    return chi_squared.quantile(confidence, int(degrees)) / (2 * total * math.log(2))


WORD_DRAWS = 200
"""Random routers that are compared: the 95 % bound is then the tenth largest."""
WORDS_TOGETHER = 16
"""Token ids of similar frequency whose experts are exchanged. A rare id has few experts and a frequent one many, so
exchanging those would not be what a router does."""


def word_information(
    domain_N: NDArray[np.integer[Any]],
    token_N: NDArray[np.integer[Any]],
    expert_NK: NDArray[np.integer[Any]],
    experts: int,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> float:
    """The bits that `mutual_information` stays below with this confidence if experts know words but not domains: the
    experts of each token id are exchanged at random with those of an id that is about as frequent."""
    _, id_N = np.unique(token_N, return_inverse=True)
    size = int(id_N.max(initial=-1)) + 1
    domains = int(np.max(domain_N, initial=-1)) + 1
    if size == 0:
        return 0.0
    count_MV = np.bincount(domain_N * size + id_N, minlength=domains * size).reshape(domains, size).astype(np.float64)
    count_VE = np.zeros((size, experts))
    for slot_N in expert_NK.T:
        count_VE += np.bincount(id_N * experts + slot_N, minlength=size * experts).reshape(size, experts)
    share_VE = count_VE / count_MV.sum(axis=0)[:, None]
    generator = np.random.default_rng(seed)
    bits = [mutual_information(count_MV @ share_VE[_exchanged(count_MV, generator)]) for _ in range(WORD_DRAWS)]
    return float(np.quantile(bits, confidence))


def _exchanged(count_MV: Floats, generator: np.random.Generator) -> NDArray[np.int64]:
    """For each token id, a random one of the `WORDS_TOGETHER` ids that are about as frequent; each id once."""
    size = count_MV.shape[1]
    by_frequency_V = np.lexsort((generator.random(size), -count_MV.sum(axis=0)))
    within_groups_V = np.lexsort((generator.random(size), np.arange(size) // WORDS_TOGETHER))
    other_V = np.empty(size, dtype=np.int64)
    other_V[by_frequency_V] = by_frequency_V[within_groups_V]
    return other_V


@dataclass(frozen=True, slots=True)
class Preference:
    """Shares of each domain's tokens that choose an expert, compared with the uniform k / E.

    `share_ME` with its Wilson interval `low_ME` to `high_ME`; `uniform` is k / E, and `lift_ME` is share / uniform.
    """

    share_ME: Floats
    low_ME: Floats
    high_ME: Floats
    uniform: float

    @property
    def lift_ME(self) -> Floats:
        return self.share_ME / self.uniform

    @property
    def above_ME(self) -> NDArray[np.bool_]:
        """The interval is above uniform: the domain prefers the expert."""
        return self.low_ME > self.uniform

    @property
    def below_ME(self) -> NDArray[np.bool_]:
        return self.high_ME < self.uniform


def preference(count_ME: Counts, k: int) -> Preference:
    """The preferences of domains for experts. A token chooses an expert at most once, so tokens are trials."""
    token_M1 = count_ME.sum(axis=1, keepdims=True) / k
    low_ME, high_ME = wilson_interval(count_ME, token_M1)
    return Preference(count_ME / np.maximum(token_M1, 1), low_ME, high_ME, k / count_ME.shape[1])


def specialisation(count_ME: Counts, word_bits: float | None = None) -> dict[str, Any]:
    """One layer's `information_bits` with its nulls, and a verdict on load and specialisation in words. `word_bits` is
    what `word_information` gives; None if the tokens are unknown, so that nothing can be called specialised."""
    bits, null = mutual_information(count_ME), independent_information(count_ME)
    count_E = count_ME.sum(axis=0)
    even = bool(count_E.any() and max_violation(count_E) <= EVEN_BELOW)
    if np.count_nonzero(count_ME.sum(axis=1)) < 2:
        told = "specialisation unknown (one domain)"
    elif bits <= null or bits < TELLS_FROM_BITS:
        told = "no specialisation"
    elif word_bits is None:
        told = "depends on the domain (perhaps only by its words)"
    else:
        told = "specialised" if bits >= word_bits + TELLS_FROM_BITS else "no specialisation beyond the domain's words"
    return {
        "information_bits": bits,
        "information_bits_null": null,
        "information_bits_words": word_bits,
        "significant": bits > null,
        "verdict": f"{'even' if even else 'uneven'} load, {told}",
    }
