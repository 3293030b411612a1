"""Predicts every counted token from those before it, in JSON lines that say which tokens count.

The loss of a step is the mean over the counted tokens of the whole step, however they are spread over ranks and
micro-batches: a mean of means would weight a token by the number of counted tokens in its micro-batch.

Shape suffixes: B rows of a batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from penstock.data_prep.files import find_files
from penstock.hooks.contracts import Batch, Inputs, LanguageModel, ObjectiveOutput, TrainingData
from penstock.hooks.json_lines import is_json_lines
from penstock.hooks.problems import Problem
from penstock.train.objectives.examples import SHOWN, Example, Row, read_examples
from penstock.train.objectives.file_rows import FileRows, raise_all, require_apart
from penstock.train.objectives.next_token import token_loss


class MaskedNextToken(FileRows[Row]):
    """See `penstock.hooks.contracts.Objective`. A row is one line, cut at the sequence length and never joined with
    another; the rows of a forward pass are padded on the right to the longest of them.

    Raises `ProblemError` with file and line for every line that is not an example: here, or in `prepare` if it takes
    the tokenizer to tell.
    """

    def __init__(self, *, paths: Sequence[str], heldout: Sequence[str]) -> None:
        named = {"train": paths, "heldout": heldout}
        self.files = {split: find_files(given, "**/*.jsonl*", is_json_lines) for split, given in named.items()}
        require_apart(self.files)
        self.examples = {split: read_examples(files) for split, files in self.files.items()}

    def prepare(self, data: TrainingData) -> None:
        self.data = data
        self.rows = {split: _rows(examples, data) for split, examples in self.examples.items()}

    def loss(self, model: LanguageModel, batch: Batch) -> ObjectiveOutput:
        return token_loss(model, batch)

    def _tokens(self, row: Row) -> int:
        return len(row.tokens) - 1  # no position reads the last one

    def _batch(self, rows: Sequence[Row]) -> Batch:
        longest = max(len(row.tokens) for row in rows)
        token_BS = np.full((len(rows), longest), self.data.end_of_text, dtype=np.int64)
        real_BS, counted_BS = np.zeros((2, len(rows), longest), dtype=np.bool_)
        for number, row in enumerate(rows):
            token_BS[number, : len(row.tokens)] = row.tokens
            counted_BS[number, : len(row.tokens)] = row.counted
            real_BS[number, : len(row.tokens) - 1] = True  # no position reads the last token
        target_BS, counted_BS = token_BS[:, 1:], counted_BS[:, 1:]
        tokens = torch.from_numpy(token_BS)
        return Batch(
            Inputs(tokens[:, :-1], real_BS=torch.from_numpy(real_BS[:, :-1])),
            tokens[:, 1:],
            units=int(counted_BS.sum()),
            counted_BS=torch.from_numpy(counted_BS),
            text_bytes=int(self.data.byte_lengths_V[target_BS[counted_BS]].sum()),
        )


def _rows(examples: Sequence[Example], data: TrainingData) -> list[Row]:
    """The examples as tokens, cut at the sequence length; raises `ProblemError` for examples without counted tokens."""
    rows: list[Row] = []
    problems: list[Problem] = []
    for example in examples:
        row = example.row(data.tokenizer, data.end_of_text).cut(data.sequence_length + 1)
        rows.append(row)
        if max(row.tokens) >= data.tokenizer.vocabulary_size:
            what = f"token {max(row.tokens)} is outside the vocabulary of {data.tokenizer.vocabulary_size} tokens"
            problems.append(Problem("bad-example", what, example.where, "use the tokenizer that made these tokens"))
        elif not any(row.counted[1:]):
            what = f"none of the first {data.sequence_length + 1} tokens are counted"
            fix = "increase data.sequence_length, or remove the line"
            problems.append(Problem("bad-example", what, example.where, fix))
    raise_all(problems, SHOWN)
    return rows
