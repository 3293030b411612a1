"""The part of a text that answers a question.

Question and text are one row, with token types 0 and 1; the text is cut to the sequence length. A question that the
text does not answer has its answer at the first token of the row.

Shape suffixes: B rows of a batch, S sequence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.data_prep.files import find_files
from penstock.eval_suite.official.squad import exact_match, word_f1
from penstock.hooks.compressed import uncompressed_name
from penstock.hooks.contracts import Batch, TrainingData
from penstock.hooks.problems import Problem
from penstock.train.objectives.file_rows import raise_all, require_apart
from penstock.train.objectives.squad import Question, read_questions
from penstock.train.objectives.tasks import Figures, TaskObjective, TaskRow, joined

FIRST, LAST = 1, 2  # bits of a target
LONGEST = 30  # tokens of an answer, as in BERT's script


class Spans(TaskObjective):
    """See `TaskObjective`. The figures are the exact match and the F1 of words of SQuAD 2.0's official script.

    The loss of a row is the mean of the nats of its first and last token, among the tokens that may be one. An answer
    behind the cut cannot be found: such a question is not trained on, and held out it can only be wrong.
    """

    def __init__(self, *, paths: Sequence[str], heldout: Sequence[str]) -> None:
        named = {"train": paths, "heldout": heldout}
        self.files = {
            split: find_files(given, "**/*", lambda path: uncompressed_name(path).endswith(".json"))
            for split, given in named.items()
        }
        require_apart(self.files)
        self.questions = {split: read_questions(files) for split, files in self.files.items()}
        self.all = [*self.questions["train"], *self.questions["heldout"]]
        self.unanswered = any(not each.answers for each in self.all)

    @property
    def labels(self) -> Sequence[str]:
        return ("first", "last")

    def prepare(self, data: TrainingData) -> None:
        self.data = data
        held = len(self.questions["train"])
        rows = [self._row(number, each) for number, each in enumerate(self.all)]
        trained = [row for row in rows[:held] if any(row.targets)]
        if not trained:
            what = f"no answer lies within the first {data.sequence_length} tokens"
            raise_all([Problem("bad-example", what, "data.sequence_length", "increase it")])
        self.rows = {"train": trained, "heldout": rows[held:]}

    def _row(self, number: int, asked: Question) -> TaskRow:
        """The question takes at most half of the row."""
        data = self.data
        question = data.tokenizer.encode(asked.question)[: data.sequence_length // 2]
        room = data.sequence_length - len(question) - 3
        tokens, types = joined([question, self._context(asked)[:room]], data.end_of_text, data.sequence_length)
        before, targets = len(question) + 2, [0] * len(tokens)
        counted = [type_ == 1 for type_ in types[:-1]] + [False]
        counted[0] = self.unanswered
        if not asked.answers:
            targets[0] = FIRST | LAST
        elif (span := self._tokens_of(asked)) is not None and before + span[1] < len(tokens) - 1:
            targets[before + span[0]] |= FIRST
            targets[before + span[1]] |= LAST
        return TaskRow(number, tokens, types, targets, counted)

    def _context(self, asked: Question) -> list[int]:
        return self.data.tokenizer.encode(asked.context)

    def _ends(self, asked: Question) -> list[int]:
        """Where each token of the text ends, in bytes. Some tokenizers put a space before a text."""
        ends = list(accumulate(self.data.byte_lengths_V[self._context(asked)].tolist()))
        space = ends[-1] - len(asked.context.encode()) if ends else 0
        return [end - space for end in ends]

    def _tokens_of(self, asked: Question) -> tuple[int, int] | None:
        """First and last token of the first answer."""
        text, start = asked.answers[0]
        first = len(asked.context[:start].encode())
        ends = self._ends(asked)
        found = bisect_right(ends, first), bisect_right(ends, first + len(text.encode()) - 1)
        return found if found[1] < len(ends) else None

    def _units(self, counted_BS: Tensor) -> int:
        return len(counted_BS)

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """A row without an answer, which is held out, is worth no nats."""
        parts: list[Tensor] = []
        for logits_BS, bit in zip(self._of_candidates(logits, batch), (FIRST, LAST), strict=True):
            hit_BS = self._hits(batch, bit)
            nats_B = F.cross_entropy(logits_BS, hit_BS.long().argmax(-1), reduction="none")
            parts.append(nats_B.where(hit_BS.any(-1), 0.0).sum())
        return (parts[0] + parts[1]) / 2

    def _hits(self, batch: Batch, bit: int) -> Tensor:
        assert batch.counted_BS is not None
        return ((batch.target_BS & bit) > 0) & batch.counted_BS

    def _of_candidates(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the first and the last token, lowest where a token is neither."""
        assert batch.counted_BS is not None
        first_BS, last_BS = logits.unbind(-1)
        lowest = torch.finfo(logits.dtype).min
        return first_BS.masked_fill(~batch.counted_BS, lowest), last_BS.masked_fill(~batch.counted_BS, lowest)

    def _figures(self, logits: Tensor, batch: Batch) -> Figures:
        first_BS, last_BS = self._of_candidates(logits, batch)
        scored: list[tuple[float, float]] = []
        for number, first_S, last_S in zip(batch.extra["number_B"].tolist(), first_BS, last_BS, strict=True):
            asked = self.all[number]
            said, gold = self._answer(asked, *_best(first_S, last_S)), [text for text, _ in asked.answers]
            scored.append((exact_match(said, gold), word_f1(said, gold)))
        match_B, f1_B = torch.tensor(scored, dtype=torch.float32, device=logits.device).T
        return {"f1": (f1_B, torch.ones_like(f1_B)), "exact_match": (match_B, torch.ones_like(match_B))}

    def _answer(self, asked: Question, first: int, last: int) -> str:
        """The text of a span of the row's tokens; none at the first token."""
        before = min(len(self.data.tokenizer.encode(asked.question)), self.data.sequence_length // 2) + 2
        if last < before:
            return ""
        ends = self._ends(asked)
        start = 0 if first <= before else ends[first - before - 1]
        return asked.context.encode()[start : ends[last - before]].decode(errors="ignore").strip()


def _best(first_S: Tensor, last_S: Tensor) -> tuple[int, int]:
    """The likeliest span of at most `LONGEST` tokens; the first token of a row, if it is one, alone."""
    length = len(first_S)
    place_S = torch.arange(length, device=first_S.device)
    width_SS = place_S - place_S[:, None]
    allowed_SS = (width_SS >= 0) & (width_SS < LONGEST) & ((place_S[:, None] > 0) | (width_SS == 0))
    scores_SS = (first_S[:, None] + last_S).masked_fill(~allowed_SS, -torch.inf)
    best = int(scores_SS.argmax())
    return best // length, best % length
