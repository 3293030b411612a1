"""A label for each text, or for each pair of texts.

Shape suffixes: B rows of a batch, L labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.data_prep.files import find_files
from penstock.hooks.contracts import Batch, TrainingData
from penstock.hooks.problems import Problem, did_you_mean
from penstock.train.objectives.file_rows import raise_all, require_apart
from penstock.train.objectives.labelled_texts import (
    Column,
    Columns,
    LabelledText,
    is_labelled_texts,
    read_labelled_texts,
)
from penstock.train.objectives.tasks import Figures, TaskObjective, TaskRow, joined


class Classification(TaskObjective):
    """See `TaskObjective`. Its figure is the accuracy.

    Raises `ProblemError` with file and line for every line that is not an example, and for a held-out label that the
    training files lack.
    """

    def __init__(
        self,
        *,
        paths: Sequence[str],
        heldout: Sequence[str],
        texts: Sequence[Column] = (),
        label: Column | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        named = {"train": paths, "heldout": heldout}
        self.files = {split: find_files(given, "**/*", is_labelled_texts) for split, given in named.items()}
        require_apart(self.files)
        columns = None if label is None else Columns(tuple(texts), label)
        self.texts = {split: read_labelled_texts(files, columns) for split, files in self.files.items()}
        self._labels = tuple(labels) or tuple(sorted({text.label for text in self.texts["train"]}))
        require_known(((text.label, text.where) for split in self.texts.values() for text in split), self._labels)

    @property
    def labels(self) -> Sequence[str]:
        return self._labels

    @property
    def majority(self) -> float:
        """The accuracy of giving every held-out text the most frequent label of those trained on."""
        found = Counter(text.label for text in self.texts["train"])
        most = max(self._labels, key=lambda label: found[label])
        return sum(text.label == most for text in self.texts["heldout"]) / len(self.texts["heldout"])

    def prepare(self, data: TrainingData) -> None:
        self.data = data
        held = len(self.texts["train"])
        self.rows = {
            "train": [self._row(number, text) for number, text in enumerate(self.texts["train"])],
            "heldout": [self._row(number, text) for number, text in enumerate(self.texts["heldout"], held)],
        }

    def _row(self, number: int, text: LabelledText) -> TaskRow:
        encoded = [self.data.tokenizer.encode(each) for each in text.texts]
        tokens, types = joined(encoded, self.data.end_of_text, self.data.sequence_length)
        rest = len(tokens) - 1
        label = self._labels.index(text.label)
        return TaskRow(number, tokens, types, [label, *[0] * rest], [True, *[False] * rest])

    def _units(self, counted_BS: Tensor) -> int:
        return len(counted_BS)

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits, batch.target_BS[:, 0], reduction="sum")

    def _figures(self, logits: Tensor, batch: Batch) -> Figures:
        right_B = (logits.argmax(-1) == batch.target_BS[:, 0]).float()
        return {"accuracy": (right_B, torch.ones_like(right_B))}


def require_known(found: Iterable[tuple[str, str]], labels: Sequence[str]) -> None:
    """Raises `ProblemError` for each label that is not among `labels`, with its place, and for a single label."""
    known = set(labels)
    raise_all(
        [
            Problem("bad-example", f"label '{label}' is unknown", where, did_you_mean(label, labels))
            for label, where in found
            if label not in known
        ]
    )
    if len(labels) < 2:
        what = f"every example has the label '{labels[0]}'"
        raise_all([Problem("bad-example", what, "train.objective", "train on files with two labels or more")])
