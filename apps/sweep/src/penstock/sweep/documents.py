"""Held-out bits of each document of each result: what the bootstrap of a report resamples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from penstock.run.records.sweep import HeldoutBytes, RungFigures, RungResult
from penstock.sweep.pareto import HeldoutBits, Values

if TYPE_CHECKING:
    from penstock.sweep.controller import Controller

Key = tuple[str, str, int, int]
"""Cell, phase, seed and tokens of a result."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Bits of each document by result, and its bytes by text (SHA-256). Both are empty for a sweep whose files have no
    documents."""

    bits: Mapping[Key, Sequence[float]] = field(default_factory=lambda: dict[Key, Sequence[float]]())
    bytes: Mapping[str, Sequence[int]] = field(default_factory=lambda: dict[str, Sequence[int]]())

    def of(self, results: Sequence[RungFigures]) -> tuple[list[HeldoutBits], Values] | None:
        """The bits of each cell, in the order in which the results name the cells, and the bytes of the documents; None
        unless all results have documents of one text."""
        texts = {result.text for result in results}
        if len(texts) != 1 or not texts <= self.bytes.keys():
            return None
        by_cell: dict[str, dict[int, Sequence[float]]] = {}
        for result in results:
            found = self.bits.get(_key(result))
            if found is None:
                return None
            by_cell.setdefault(result.cell, {})[result.seed] = found
        bytes_D = np.asarray(self.bytes[texts.pop()], dtype=np.float64)
        ordered = [dict(sorted(seeds.items())) for seeds in by_cell.values()]
        return [HeldoutBits(tuple(seeds), np.array(list(seeds.values()))) for seeds in ordered], bytes_D


def documents_of(results: Iterable[RungResult], heldout: Mapping[str, HeldoutBytes]) -> Documents:
    """The documents of these results; `heldout` has the bytes by text."""
    return Documents(
        {_key(each): each.document_bits for each in results},
        {text: each.document_bytes for text, each in heldout.items()},
    )


def read_documents(walk: Controller) -> Documents:
    """The documents of everything that a walk through a sweep found in its files."""
    found = [
        replace(result, cell=trial.cell.name, phase=trial.phase.name)
        for trial in walk.trials
        for tokens in trial.phase.rung_tokens(trial.cell)
        if (result := trial.files.result(tokens)) is not None
    ]
    return documents_of(found, {text: walk.files.heldout(text) for text in {each.text for each in found}})


def _key(result: RungFigures) -> Key:
    return result.cell, result.phase, result.seed, result.tokens
