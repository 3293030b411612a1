"""What counts in JSON lines, and which lines are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.hooks import ProblemError
from penstock.hooks.contracts import Batch, TrainingData
from penstock.train.objectives.masked import MaskedNextToken

END = 0


class Letters:
    """a is 1, b is 2 ..."""

    vocabulary_size = 27
    end_of_text = END

    def byte_lengths(self) -> Any:
        return np.ones(27, dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 96 for letter in text]

    def decode(self, tokens: Any) -> str:
        return "".join(chr(96 + token) for token in tokens)


def objective(folder: Path, *lines: Any, length: int = 8) -> MaskedNextToken:
    """The lines are trained on and held out, in two files."""
    files = [folder / "rows.jsonl", folder / "heldout.jsonl"]
    for file in files:
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = MaskedNextToken(paths=[str(files[0])], heldout=[str(files[1])])
    source: Any = None
    made.prepare(TrainingData(source, source, Letters(), END, np.ones(27, dtype=np.int64), length, 2, 100, seed=3))
    return made


def counted(batch: Batch) -> list[list[int]]:
    """The targets of each row that count."""
    assert batch.counted_BS is not None
    return [row[mask].tolist() for row, mask in zip(batch.target_BS, batch.counted_BS, strict=True)]


@pytest.mark.parametrize(
    ("line", "targets"),
    [
        ({"text": "abc"}, [2, 3, END]),
        ({"prompt": "ab", "completion": "cd"}, [3, 4, END]),
        ({"prompt": "", "completion": "cd"}, [4, END]),
        ({"tokens": [5, 6, 7, 8], "mask": [1, 0, 1, 0]}, [7]),
    ],
)
def test_the_counted_targets_are_those_that_the_line_says(tmp_path, line, targets):
    (batch,) = objective(tmp_path, line).heldout()
    assert counted(batch) == [targets]
    assert (batch.units, batch.text_bytes) == (len(targets), len(targets))


def test_rows_are_padded_behind_and_padding_is_neither_real_nor_counted(tmp_path):
    (batch,) = objective(tmp_path, {"text": "abcd"}, {"text": "a"}).heldout()
    assert batch.inputs.token_BS.tolist() == [[1, 2, 3, 4], [1, END, END, END]]
    assert batch.inputs.real_BS is not None
    assert batch.inputs.real_BS.tolist() == [[True] * 4, [True, False, False, False]]
    assert counted(batch) == [[2, 3, 4, END], [END]]


def test_every_row_comes_once_an_epoch(tmp_path):
    rows = objective(tmp_path, *({"text": letter} for letter in "abcdef"))
    seen = [row[0] for step in range(3) for row in rows.batches(step)[0].inputs.token_BS.tolist()]
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    assert seen != sorted(seen)


def test_a_changed_file_has_another_fingerprint(tmp_path):
    before = objective(tmp_path, {"text": "abc"}).fingerprint()
    assert objective(tmp_path, {"text": "abd"}).fingerprint().keys() == before.keys()
    assert objective(tmp_path, {"text": "abd"}).fingerprint() != before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("water", "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"prompt": "a"}', "not an example of one form: its fields are 'prompt', write 'text'"),
        ('{"text": "a", "prompt": "b"}', "not an example of one form: its fields are 'text', 'prompt'"),
        ('{"text": "a", "tokens": [1, "x"]}', "its fields are 'text', 'tokens'"),
        ('{"text": 5}', "'text' must be a string, not 5"),
        ('{"text": ""}', "'text' is empty"),
        ('{"prompt": "a", "completion": ""}', "'completion' is empty"),
        ('{"text": "\\ud800"}', "an unpaired surrogate"),
        ('{"tokens": [1, 2], "mask": [1]}', "has 2 entries, but 'mask' has 1"),
        ('{"tokens": [1, -2], "mask": [1, 1]}', "integers >= 0"),
        ('{"tokens": [1, 2], "mask": [1, 2]}', "a list of 0 and 1"),
        ('{"tokens": [1], "mask": [1]}', "fewer than two tokens"),
    ],
)
def test_a_line_that_is_no_example_is_named_with_its_file_and_number(tmp_path, line, said):
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    fine = tmp_path / "fine.jsonl"
    fine.write_text('{"text": "fine"}')
    with pytest.raises(ProblemError, match=said) as raised:
        MaskedNextToken(paths=[str(file)], heldout=[str(fine)])
    assert {problem.where for problem in raised.value.problems} == {f"{file}:3"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "abcdefghij", "completion": "k"}, "none of the first 9 tokens are counted"),
        ({"tokens": [3, 99], "mask": [0, 1]}, "token 99 is outside the vocabulary of 27"),
        ({"tokens": [3, 4], "mask": [1, 0]}, "none of the first 9 tokens are counted"),
    ],
)
def test_what_only_the_tokenizer_can_tell_is_told_before_the_first_step(tmp_path, line, said):
    with pytest.raises(ProblemError, match=said) as raised:
        objective(tmp_path, {"text": "abc"}, line)
    assert raised.value.problems[0].where.endswith("rows.jsonl:2")


def test_a_file_that_is_trained_on_is_not_held_out_under_any_name(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}')
    (tmp_path / "other.jsonl").symlink_to("rows.jsonl")
    for heldout in ("rows.jsonl", "other.jsonl", "*.jsonl"):
        with pytest.raises(ProblemError, match="is trained on and held out, name it in `paths` or"):
            MaskedNextToken(paths=[str(tmp_path / "rows.jsonl")], heldout=[str(tmp_path / heldout)])
