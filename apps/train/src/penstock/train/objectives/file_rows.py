"""Objectives that read the rows of files: which rows are in a batch, and which files the run depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from penstock.data_prep.order import keys, permute
from penstock.hooks.contracts import Batch, TrainingData
from penstock.hooks.problems import Problem, ProblemError
from penstock.train.checkpoint import sha256

Row = TypeVar("Row")


class FileRows(ABC, Generic[Row]):
    """The part of an objective (see `penstock.hooks.contracts.Objective`) that chooses rows. A subclass reads `files`
    by split when it is built, and makes `rows` of them in `prepare`."""

    data: TrainingData
    files: Mapping[str, Sequence[Path]]
    rows: Mapping[str, Sequence[Row]]

    @abstractmethod
    def _batch(self, rows: Sequence[Row]) -> Batch:
        """The rows padded to the longest of them."""

    @abstractmethod
    def _tokens(self, row: Row) -> int:
        """How many tokens a model reads of a row."""

    def fingerprint(self) -> dict[str, str]:
        return {f"{split}/{file}": sha256(Path(file)) for split, files in self.files.items() for file in files}

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        first, size = share_of(self.data.batch_size, rank=rank, ranks=ranks, parts=parts)
        starts = range(step * self.data.batch_size + first, step * self.data.batch_size + first + parts * size, size)
        return [self._batch(self._drawn(range(start, start + size))) for start in starts]

    def heldout(self) -> Iterator[Batch]:
        """The first rows of the held-out files: as many as an evaluation reads, at least one."""
        tokens = 0
        for read in self._heldout_parts():
            yield self._batch(read)
            tokens += sum(map(self._tokens, read))
            if tokens >= self.data.heldout_tokens:
                return

    def _heldout_parts(self) -> Iterator[Sequence[Row]]:
        rows = self.rows["heldout"]
        return (rows[first : first + self.data.batch_size] for first in range(0, len(rows), self.data.batch_size))

    def _drawn(self, numbers: Iterable[int]) -> list[Row]:
        """Each epoch has every row once, in its own order."""
        rows = self.rows["train"]
        epoch_B, position_B = np.divmod(np.array(list(numbers), dtype=np.int64), len(rows))
        return [rows[index] for index in permute(position_B, len(rows), keys(self.data.seed, epoch_B)).tolist()]


def share_of(batch_size: int, *, rank: int, ranks: int, parts: int) -> tuple[int, int]:
    """(the first row of a rank in a batch, the rows of each of its parts); raises `ProblemError` for a batch that
    cannot be split so."""
    size, rest = divmod(batch_size, ranks * parts)
    if rest:
        what = f"a batch of {batch_size} cannot be split into {ranks} ranks of {parts} micro-batches each"
        raise ProblemError(Problem("indivisible-batch", what, "train.batch_size", f"use a multiple of {ranks * parts}"))
    return rank * parts * size, size


def require_apart(files: Mapping[str, Sequence[Path]]) -> None:
    """Raises `ProblemError` for files that are both trained on and held out."""
    trained = {file.resolve() for file in files["train"]}
    what, fix = "the file is trained on and held out", "name it in `paths` or in `heldout` only"
    problems = [Problem("bad-value", what, str(file), fix) for file in files["heldout"] if file.resolve() in trained]
    if problems:
        raise ProblemError(problems)


def raise_all(problems: Sequence[Problem], shown: int = 20) -> None:
    """Raises the first problems, if there are any."""
    if problems:
        raise ProblemError(problems[:shown])
