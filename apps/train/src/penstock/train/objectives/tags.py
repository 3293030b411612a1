"""A label for each word: entities, or plain tags such as parts of speech.

A word has its label at its first token; the others are read and have no target. Words beyond the sequence length have
no prediction: those held out count as `O`, or as wrong, so a short sequence cannot improve a figure.

Shape suffixes: B rows of a batch, S sequence, L labels, N counted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.data_prep.files import find_files
from penstock.eval_suite.official.entities import OUTSIDE, as_iob2, entities, iob2_labels, is_tag
from penstock.hooks.contracts import Batch, TrainingData
from penstock.hooks.problems import Problem
from penstock.train.objectives.classification import require_known
from penstock.train.objectives.file_rows import raise_all, require_apart
from penstock.train.objectives.tagged_words import Sentence, read_sentences
from penstock.train.objectives.tasks import Figures, TaskObjective, TaskRow


class Tags(TaskObjective):
    """See `TaskObjective`. With the scheme `entities` the figures are micro-averaged F1, precision and recall of whole
    entities, equal to seqeval's; with `plain`, the share of words with the right tag.

    The labels of entities are IOB2, whatever scheme the files have. Raises `ProblemError` with file and line for every
    line that is no word with a tag, and for a held-out tag that the training files lack.
    """

    def __init__(
        self,
        *,
        paths: Sequence[str],
        heldout: Sequence[str],
        scheme: Literal["entities", "plain"] = "entities",
        column: int | None = None,
        limit: int | None = None,
    ) -> None:
        named = {"train": paths, "heldout": heldout}
        self.files = {split: find_files(given, "**/*") for split, given in named.items()}
        require_apart(self.files)
        limits = {"train": limit, "heldout": None}
        self.sentences = {split: read_sentences(files, column, limits[split]) for split, files in self.files.items()}
        self.scheme = scheme
        if scheme == "entities":
            raise_all([problem for each in self.sentences.values() for problem in _wrong_tags(each)])
        self.gold = {split: [self._tags(each) for each in read] for split, read in self.sentences.items()}
        self._labels = self._found_labels()
        for split, read in self.sentences.items():
            tagged = zip(read, self.gold[split], strict=True)
            require_known((pair for each, tags in tagged for pair in zip(tags, each.places, strict=True)), self._labels)
        self._index = {label: number for number, label in enumerate(self._labels)}

    @property
    def labels(self) -> Sequence[str]:
        return self._labels

    def prepare(self, data: TrainingData) -> None:
        self.data = data
        held = len(self.sentences["train"])
        self.rows = {
            "train": [self._row(number, each) for number, each in enumerate(self.sentences["train"])],
            "heldout": [self._row(number, each) for number, each in enumerate(self.sentences["heldout"], held)],
        }

    def _tags(self, sentence: Sentence) -> list[str]:
        return as_iob2(sentence.tags) if self.scheme == "entities" else list(sentence.tags)

    def _found_labels(self) -> tuple[str, ...]:
        tags = {tag for each in self.gold["train"] for tag in each}
        return tuple(iob2_labels(tag[2:] for tag in tags - {OUTSIDE}) if self.scheme == "entities" else sorted(tags))

    def _gold(self, number: int) -> list[str]:
        """The tags of a sentence by its number among all."""
        held = len(self.gold["train"])
        return self.gold["train"][number] if number < held else self.gold["heldout"][number - held]

    def _row(self, number: int, sentence: Sentence) -> TaskRow:
        """Words are joined by spaces. A sentence begins and ends with the token that ends texts."""
        data = self.data
        tokens, targets, counted = [data.end_of_text], [0], [False]
        for place, (word, tag) in enumerate(zip(sentence.words, self._gold(number), strict=True)):
            ids = data.tokenizer.encode(word if place == 0 else f" {word}")[: data.sequence_length - 1 - len(tokens)]
            if not ids:
                break
            tokens += ids
            targets += [self._index[tag], *[0] * (len(ids) - 1)]
            counted += [True, *[False] * (len(ids) - 1)]
        return TaskRow(number, [*tokens, data.end_of_text], [0] * (len(tokens) + 1), [*targets, 0], [*counted, False])

    def _units(self, counted_BS: Tensor) -> int:
        return int(counted_BS.sum())

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        assert batch.counted_BS is not None
        return F.cross_entropy(logits[batch.counted_BS], batch.target_BS[batch.counted_BS], reduction="sum")

    def _figures(self, logits: Tensor, batch: Batch) -> Figures:
        assert batch.counted_BS is not None
        found_BS, counted_BS = logits.argmax(-1).tolist(), batch.counted_BS.tolist()
        rows: list[tuple[float, ...]] = []
        for number, found_S, counted_S in zip(batch.extra["number_B"].tolist(), found_BS, counted_BS, strict=True):
            said = [self._labels[label] for label, counts in zip(found_S, counted_S, strict=True) if counts]
            rows.append(self._counts(said, self._gold(number)))
        columns = torch.tensor(rows, dtype=torch.float32, device=logits.device).T
        if self.scheme == "plain":
            return {"accuracy": (columns[0], columns[1])}
        right_B, found_B, gold_B = columns
        return {
            "entity_f1": (2 * right_B, found_B + gold_B),
            "entity_precision": (right_B, found_B),
            "entity_recall": (right_B, gold_B),
        }

    def _counts(self, said: Sequence[str], gold: Sequence[str]) -> tuple[float, ...]:
        """Right, found and gold entities of a sentence; or right and all words."""
        if self.scheme == "plain":
            return sum(map(str.__eq__, said, gold)), len(gold)
        found, expected = set(entities(said)), set(entities(gold))
        return len(found & expected), len(found), len(expected)


def _wrong_tags(sentences: Sequence[Sentence]) -> list[Problem]:
    fix = "write O, or B-TYPE and I-TYPE; for other tags set `scheme: plain`"
    return [
        Problem("bad-example", f"'{tag}' is not an entity tag", where, fix)
        for each in sentences
        for tag, where in zip(each.tags, each.places, strict=True)
        if not is_tag(tag)
    ]
