"""Near duplicates: candidates of MinHash bands, verified by the exact Jaccard similarity of their sets of shingles.

Documents that share a band's key are compared; those at the threshold or above are joined, and one of each cluster
stays. Only documents of one cluster repeat one another, so cleaning again finds nothing.

Shape suffixes: N documents, B bands.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.data_prep.cleaning.banding import RECALL, choose_banding
from penstock.data_prep.cleaning.clusters import Clusters
from penstock.data_prep.cleaning.memory import MAX_RAM, room_of, too_small
from penstock.data_prep.cleaning.normalise import Normaliser, require_choice
from penstock.data_prep.cleaning.runs import NO_KEY, Keys, Places, merge, sort_into_runs
from penstock.data_prep.cleaning.shingles import Shingling
from penstock.data_prep.cleaning.signatures import Hash, Scheme, Signer
from penstock.hooks.contracts import Array, Decision, Document
from penstock.hooks.problems import Problem, ProblemError

RULE = "near/duplicate"
SLICE = 4096
"""Documents that are signed at once: 2 MiB of signatures of 128 permutations."""

_ENDS = (".", "!", "?", '"', "”", "。", "।", "\uff01", "\uff1f")  # the last two: ! and ? of full width

Keep = Literal["earliest", "longest", "best"]
ShingleSet: TypeAlias = NDArray[np.uint64]


class NearDuplicates:
    """A comparer that keeps one document of each cluster of near duplicates.

    Two documents are near if the Jaccard similarity of their sets of shingles is at least `threshold`, and they are
    found with a probability of at least `recall` (`choose_banding`). Clusters are chained: a document can be less
    similar to the one that stays; its decision says so. A document without words is never near.

    `keep` says which document of a cluster stays: the `earliest`, the `longest` (in characters) or the `best` by
    `quality`; the earliest of equals. `max_ram` is the peak of the process that compares, in bytes. Of what the
    interpreter leaves, half sorts keys, an eighth holds sets of shingles, and 32 bytes a document must fit into half of
    it afterwards. Keys that do not fit are sorted on disk in `scratch`, by default the system's folder of temporary
    files.

    Raises `ProblemError` for settings out of range.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.8,
        recall: float = RECALL,
        keep: Keep = "earliest",
        permutations: int = 128,
        seed: int = 1,
        scheme: Scheme = "affine32",
        hash: Hash = "xxh32",
        unit: Literal["word", "character"] = "word",
        size: int = 5,
        normaliser: Normaliser | None = None,
        max_ram: int = MAX_RAM,
        scratch: str | Path | None = None,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ProblemError(
                Problem("invalid-value", f"{threshold} is no similarity", "threshold", "above 0, at most 1")
            )
        require_choice("keep", keep, ("earliest", "longest", "best"))
        self.threshold, self.recall, self.keep, self.scratch = threshold, recall, keep, scratch
        self.room = room_of(max_ram)
        """Bytes that comparing may take."""
        self.quality: Callable[[Document], float] = share_of_prose
        """What the `best` has most of; another measure may be put here."""
        self.signer = Signer(permutations, seed, scheme, hash, Shingling(unit, size), normaliser or Normaliser())
        self.banding = choose_banding(permutations, threshold, recall)

    @classmethod
    def of(cls, description: Mapping[str, Any], max_ram: int = MAX_RAM) -> NearDuplicates:
        """One of the settings that `describe` gave."""
        names = ("threshold", "recall", "permutations", "seed", "scheme", "hash")
        settings = {name: description[name] for name in names}
        normaliser = Normaliser.of(description["normaliser"])
        return cls(**settings, **description["shingle"], normaliser=normaliser, max_ram=max_ram)

    def describe(self) -> dict[str, Any]:
        """Everything that decides which documents are near, as JSON holds it."""
        banding = {"bands": self.banding.bands, "rows": self.banding.rows}
        return {**self.signer.describe(), **banding, "threshold": self.threshold, "recall": self.recall}

    def sketch(self, documents: Sequence[Document]) -> Keys:
        """uint64 [N, B]: the band keys of each document."""
        keys_NB = np.empty((len(documents), self.banding.bands), dtype=np.uint64)
        for start in range(0, len(documents), SLICE):
            signatures = self.signer.sign([document.text for document in documents[start : start + SLICE]])
            keys_NB[start : start + SLICE] = self.keys(signatures)
        return keys_NB

    def keys(self, signatures: NDArray[np.unsignedinteger]) -> Keys:
        """uint64 [N, B]: the band keys of signatures [N, permutations]; no key for one of an empty set."""
        keys_NB = self.banding.keys(signatures)
        keys_NB[(signatures == self.signer.empty).all(axis=1)] = NO_KEY
        return keys_NB

    def shingle_set(self, text: str) -> ShingleSet:
        """uint64, ascending: hashes of the different shingles. Two of a set of 10**6 are equal with a probability of
        3e-8 (xxh3)."""
        shingles = self.signer.shingles(text)
        return np.unique(np.fromiter(map(xxhash.xxh3_64_intdigest, shingles), np.uint64, len(shingles)))

    def compare(self, sketches: Sequence[Array], read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        """Decisions by the place of the document that goes, ascending."""
        count = sum(len(sketch) for sketch in sketches)
        if 64 * count > self.room:
            raise too_small(f"comparing {count:,} documents", 64 * count)
        sets = _Sets(lambda place: self.shingle_set(read(place).text), count, self.room // 8)
        clusters = self._clusters(sketches, count, sets)
        removed, kept, similarity = self._choose(clusters, read, sets)
        source = lru_cache(4096)(lambda place: read(place).source)
        for place, stays, jaccard in zip(removed.tolist(), kept.tolist(), similarity.tolist(), strict=True):
            detail = f"Jaccard similarity {jaccard:.2f}"
            if jaccard < self.threshold:
                detail += f", chained by documents that are at least {self.threshold:g}"
            yield place, Decision(RULE, detail, repeats=source(stays))

    def _clusters(self, sketches: Sequence[Array], count: int, sets: _Sets) -> Clusters:
        """Near documents of all sketches, joined."""
        clusters = Clusters(count, lambda left, right: sets.jaccard(left, right) >= self.threshold)
        with tempfile.TemporaryDirectory(prefix="penstock-near-", dir=self.scratch) as folder:
            runs = sort_into_runs(sketches, Path(folder), self.room // 2)
            for keys, places in merge(runs, self.room // 4):
                clusters.add(keys, places)
        return clusters

    def _choose(
        self, clusters: Clusters, read: Callable[[int], Document], sets: _Sets
    ) -> tuple[Places, Places, NDArray[np.float64]]:
        """For each document that goes, by place: its place, that of the one that stays, and their similarity."""
        # Arrays of the standard library, because a list takes 100 bytes a document.
        removed, stays, similarity = array("I"), array("I"), array("d")
        for members in clusters.members():
            places: list[int] = members.tolist()
            kept = places[0] if self.keep == "earliest" else max(places, key=lambda place: self._worth(read(place)))
            others = [place for place in places if place != kept]
            removed.extend(others)
            stays.extend([kept] * len(others))
            similarity.extend(sets.jaccard(place, kept) for place in others)
        order = np.argsort(np.array(removed))
        return np.array(removed)[order], np.array(stays)[order], np.array(similarity)[order]

    def _worth(self, document: Document) -> float:
        return len(document.text) if self.keep == "longest" else self.quality(document)


def share_of_prose(document: Document) -> float:
    """The share of a document's characters that stand in lines which end a sentence: menus, lists of links and cut
    lines do not (C4 keeps only such lines; Raffel et al. 2020, 2.2)."""
    lines = [line.strip() for line in document.text.splitlines()]
    ended = sum(len(line) for line in lines if line.endswith(_ENDS))
    return ended / max(1, sum(map(len, lines)))


def jaccard_similarity(left: ShingleSet, right: ShingleSet) -> float:
    """Of two sets, 0 if both are empty."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)


class _Sets:
    """Sets of shingles by place; the last used stay in memory, within `max_bytes`. Of each document the similarity that
    was computed last to an earlier one is kept, in 12 bytes: most clusters are pairs, which are asked about twice."""

    def __init__(self, make: Callable[[int], ShingleSet], count: int, max_bytes: int) -> None:
        self._make, self._room = make, max_bytes
        self._held = OrderedDict[int, ShingleSet]()
        self._earlier = np.arange(count, dtype=np.uint32)
        self._similarity = np.ones(count)

    def jaccard(self, one: int, other: int) -> float:
        earlier, later = min(one, other), max(one, other)
        if self._earlier[later] != earlier:
            self._similarity[later] = jaccard_similarity(self._get(earlier), self._get(later))
            self._earlier[later] = earlier
        return float(self._similarity[later])

    def _get(self, place: int) -> ShingleSet:
        if place in self._held:
            self._held.move_to_end(place)
            return self._held[place]
        made = self._held[place] = self._make(place)
        self._room -= made.nbytes + 300
        while self._room < 0 and len(self._held) > 1:
            self._room += self._held.popitem(last=False)[1].nbytes + 300
        return made
