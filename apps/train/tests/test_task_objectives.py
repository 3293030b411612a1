"""What the objectives of encoders make of their files, and how they score examples."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.eval_suite.official.entities import entities
from penstock.hooks import ProblemError
from penstock.hooks.contracts import TrainingData
from penstock.train.objectives.classification import Classification
from penstock.train.objectives.masked_lm import MaskedTokens
from penstock.train.objectives.spans import Spans
from penstock.train.objectives.tags import Tags

END, MASK = 0, 1
DATA = os.environ.get("PENSTOCK_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="PENSTOCK_DATA names no folder of data sets")


class Letters:
    """A token for each character; a space and what follows it are two."""

    vocabulary_size = 300
    end_of_text = END

    def byte_lengths(self) -> Any:
        return (np.arange(300) > 1).astype(np.int64)

    def encode(self, text: str) -> list[int]:
        return [byte + 2 for byte in text.encode()]

    def decode(self, tokens: Any) -> str:
        return bytes(token - 2 for token in tokens if token > 1).decode()


class Numbers:
    """A `TokenSource`: 2, 3, 4 ..."""

    tokens = 2000

    def slice(self, start: int, stop: int) -> Any:
        return np.arange(start, stop) % 250 + 2


def prepared(objective: Any, *, length: int = 32, batch_size: int = 2, heldout_tokens: int = 10_000) -> Any:
    lengths = Letters().byte_lengths()
    objective.prepare(
        TrainingData(Numbers(), Numbers(), Letters(), END, lengths, length, batch_size, heldout_tokens, seed=3)
    )
    return objective


def files(folder: Path, text: str, suffix: str = "tsv") -> dict[str, Any]:
    """The same text to train on and held out, in two files."""
    named = {"paths": folder / f"train.{suffix}", "heldout": folder / f"heldout.{suffix}"}
    for file in named.values():
        file.write_text(text, encoding="utf-8")
    return {name: [str(file)] for name, file in named.items()}


class Saying:
    """A model that says these labels, one row after the other."""

    def __init__(self, labels: Sequence[Any], outputs: int) -> None:
        self.logits = torch.nn.functional.one_hot(torch.tensor(labels), outputs).float()

    def task_logits(self, inputs: Any) -> torch.Tensor:
        return self.logits


# --- classification


def test_a_text_stands_between_two_end_tokens_and_its_label_counts_at_the_first(tmp_path: Path) -> None:
    objective = prepared(Classification(**files(tmp_path, "good\tyes\nbad\tno\n")))
    (batch,) = objective.heldout()
    letters = [byte + 2 for byte in b"good"]
    assert objective.labels == ("no", "yes")
    assert batch.inputs.token_BS[0].tolist() == [END, *letters, END]
    assert batch.inputs.real_BS.tolist() == [[True] * 6, [True] * 5 + [False]]
    assert batch.target_BS[:, 0].tolist() == [1, 0]
    assert batch.counted_BS.sum(1).tolist() == [1, 1]
    assert batch.inputs.type_BS is None
    assert batch.units == 2


def test_a_pair_has_two_types_and_its_longer_text_is_cut_first(tmp_path: Path) -> None:
    named = files(tmp_path, '{"a": "abcdefgh", "b": "xyz", "y": 1}\n{"a": "c", "b": "d", "y": 0}\n', "jsonl")
    (batch,) = prepared(Classification(**named, texts=("a", "b"), label="y"), length=9).heldout()
    assert Letters().decode(batch.inputs.token_BS[0].tolist()) == "abcxyz"
    assert batch.inputs.type_BS[0].tolist() == [0] * 5 + [1] * 4


def test_columns_are_named_by_the_header_or_counted(tmp_path: Path) -> None:
    text = '\ufefflabel\tid\tsentence\n1\t7\tgood "film"\n0\t8\tbad\n'
    by_name = Classification(**files(tmp_path, text), texts=("sentence",), label="label")
    assert [each.texts for each in by_name.texts["train"]] == [('good "film"',), ("bad",)]
    counted = Classification(**files(tmp_path, text.partition("\n")[2]), texts=(3,), label=1)
    assert [each.label for each in counted.texts["train"]] == ["1", "0"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alone", "the line has no column 2, which is read"),
        ("\tno", "the text is empty"),
        ("fine\t", "the label must be a string or an integer"),
        ("fine\tmaybe", "label 'maybe' is unknown"),
    ],
)
def test_a_line_without_text_or_label_is_named_with_its_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    named = files(tmp_path, "good\tyes\nbad\tno\n")
    heldout = Path(named["heldout"][0])
    heldout.write_text(f"good\tyes\n\n{line}\n")
    with pytest.raises(ProblemError, match=said) as raised:
        Classification(**named, labels=("no", "yes"))
    assert {problem.where for problem in raised.value.problems} == {f"{heldout}:3"}


def test_other_faults_of_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"train\.tsv:1: the header line has no column 'text'"):
        Classification(**files(tmp_path, "sentence\tlabel\na\tb\n"), texts=("text",), label="label")
    with pytest.raises(ProblemError, match="every example has the label 'yes'"):
        Classification(**files(tmp_path, "good\tyes\n"))
    with pytest.raises(ProblemError, match="the line has no field 'label'"):
        Classification(**files(tmp_path, '{"text": "a"}\n', "jsonl"))
    with pytest.raises(ProblemError, match="trained on and held out"):
        Classification(paths=[str(tmp_path / "train.tsv")], heldout=[str(tmp_path / "train.tsv")])
    (tmp_path / "train.tsv").write_bytes(b"caf\xe9\tyes\n")
    with pytest.raises(ProblemError, match=r"train\.tsv:1: invalid UTF-8"):
        Classification(paths=[str(tmp_path / "train.tsv")], heldout=[str(tmp_path / "heldout.tsv")])


def test_accuracy_is_told_by_example_and_beside_the_majority(tmp_path: Path) -> None:
    objective = prepared(Classification(**files(tmp_path, "a\tx\nb\tx\nc\ty\n")), batch_size=3)
    (batch,) = objective.examples()
    value_B, weight_B = objective.scores(Saying([0, 1, 1], 2), batch)["accuracy"]
    assert (value_B.tolist(), weight_B.tolist()) == ([1, 0, 1], [1, 1, 1])
    assert objective.majority == 2 / 3


def test_every_held_out_example_comes_once_and_an_evaluation_stops_early(tmp_path: Path) -> None:
    lines = "".join(f"{'abc'[number % 3] * 8}\t{number % 2}\n" for number in range(9))
    objective = prepared(Classification(**files(tmp_path, lines)), heldout_tokens=35)
    numbers = [number for batch in objective.examples() for number in batch.extra["number_B"].tolist()]
    assert numbers == list(range(9, 18))
    assert sum(len(batch.target_BS) for batch in objective.heldout()) == 4


@needs_data
def test_sst_2_is_read_whole() -> None:
    folder = Path(str(DATA)) / "glue" / "SST-2_sentences"
    heldout = [str(folder / "dev.tsv"), str(folder / "test.tsv.xz")]
    objective = Classification(paths=[str(folder / "train.tsv.xz")], heldout=heldout)
    assert objective.labels == ("0", "1")
    assert (len(objective.texts["train"]), len(objective.texts["heldout"])) == (6920, 872 + 1821)


# --- tags

CONLL = """\
-DOCSTART- -X- O O

Ann NNP I-PER
Lee NNP I-PER
Rome NNP B-PER
is VB O

Oslo NNP I-LOC
"""


def test_tags_of_any_scheme_are_learnt_as_iob2(tmp_path: Path) -> None:
    objective = Tags(**files(tmp_path, CONLL, "txt"))
    assert objective.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert objective.gold["train"] == [["B-PER", "I-PER", "B-PER", "O"], ["B-LOC"]]


def test_a_word_has_its_label_at_its_first_token(tmp_path: Path) -> None:
    (batch,) = prepared(Tags(**files(tmp_path, CONLL, "txt"))).heldout()
    tokens, counted = batch.inputs.token_BS[0], batch.counted_BS[0]
    assert Letters().decode(tokens.tolist()) == "Ann Lee Rome is"
    assert counted.nonzero().flatten().tolist() == [1, 4, 8, 13]  # the space before a word is its first token
    assert batch.target_BS[0][counted].tolist() == [3, 4, 3, 0]
    assert batch.units == 5


def test_words_behind_the_cut_have_no_prediction_and_their_entities_are_missed(tmp_path: Path) -> None:
    objective = prepared(Tags(**files(tmp_path, CONLL, "txt")), length=8)
    (batch,) = objective.heldout()
    assert batch.counted_BS.sum(1).tolist() == [2, 1]
    said = torch.zeros(batch.target_BS.shape, dtype=torch.long)
    said[0, 1], said[0, 4], said[1, 1] = 3, 4, 1
    scores = objective.scores(Saying(said.tolist(), 5), batch)
    assert [each.tolist() for each in scores["entity_recall"]] == [[1, 1], [2, 1]]
    assert [each.tolist() for each in scores["entity_precision"]] == [[1, 1], [1, 1]]
    assert [each.tolist() for each in scores["entity_f1"]] == [[2, 2], [3, 2]]


def test_a_word_longer_than_the_sequence_keeps_its_label(tmp_path: Path) -> None:
    objective = prepared(Tags(**files(tmp_path, f"{'long' * 10} O\nAnn B-PER\n", "txt")), length=8)
    (batch,) = objective.heldout()
    assert batch.inputs.token_BS.shape == (1, 8)
    assert batch.counted_BS.sum() == 1


def test_plain_tags_are_scored_word_by_word(tmp_path: Path) -> None:
    objective = prepared(Tags(**files(tmp_path, CONLL, "txt"), scheme="plain", column=2))
    assert objective.labels == ("NNP", "VB")
    (batch,) = objective.heldout()
    value_B, weight_B = objective.scores(Saying(torch.zeros_like(batch.target_BS).tolist(), 2), batch)["accuracy"]
    assert (value_B.tolist(), weight_B.tolist()) == ([3, 1], [4, 1])


def test_json_lines_of_words_and_tags_are_the_same_sentences(tmp_path: Path) -> None:
    rows = [{"words": ["Ann", "Lee"], "tags": ["B-PER", "I-PER"]}, {"words": ["Rome"], "tags": ["B-PER"]}]
    objective = Tags(**files(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "jsonl"), limit=1)
    assert [each.words for each in objective.sentences["heldout"]] == [("Ann", "Lee"), ("Rome",)]
    assert len(objective.sentences["train"]) == 1


def test_columns_are_separated_by_tabs_or_else_by_spaces_and_by_no_other_space(tmp_path: Path) -> None:
    lines = "New York\tNNP\tI-LOC\n10\u00a0000   CD  O\r\n\u00a0\nRome \t NNP \t I-LOC\n"
    objective = Tags(**files(tmp_path, lines, "txt"))
    assert [each.words for each in objective.sentences["train"]] == [("New York", "10\u00a0000"), ("Rome",)]
    assert objective.gold["train"] == [["B-LOC", "O"], ["B-LOC"]]


@pytest.mark.parametrize(
    ("objective", "suffix", "text", "said"),
    [
        (
            Classification,
            "jsonl",
            '{"text": "ab\\ud800", "label": 1}\n',
            "the text has an unpaired surrogate at character 2",
        ),
        (Tags, "jsonl", '{"words": ["\\udfff"], "tags": ["O"]}\n', "a word has an unpaired surrogate at character 0"),
        (
            Spans,
            "json",
            '{"data": [{"paragraphs": [{"context": "\\ud83d", "qas": [{"question": "q", "answers": []}]}]}]}',
            "the context has an unpaired surrogate at character 0",
        ),
    ],
)
def test_text_that_utf_8_cannot_hold_is_named(
    tmp_path: Path, objective: Any, suffix: str, text: str, said: str
) -> None:
    with pytest.raises(ProblemError, match=said):
        objective(**files(tmp_path, text, suffix))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ann B-PER\nLee\n", r"train\.txt:2: the line has no column 2, where the tag is"),
        ("Ann NNP\nLee B-PER\n", r"train\.txt:1: 'NNP' is not an entity tag, .*scheme: plain"),
        ("\n\n", r"train\.txt: the file has no sentences"),
    ],
)
def test_a_line_that_is_no_tagged_word_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        Tags(**files(tmp_path, text, "txt"))


def test_a_held_out_type_that_is_never_trained_is_named(tmp_path: Path) -> None:
    named = files(tmp_path, CONLL, "txt")
    Path(named["heldout"][0]).write_text("Ann B-PER\n\nMonday B-DATE\n")
    with pytest.raises(ProblemError, match=r"heldout\.txt:3: label 'B-DATE' is unknown"):
        Tags(**named)


@needs_data
def test_conll_2003_has_its_published_counts() -> None:
    """14,041 sentences to train on; 5,942 entities in testa (arXiv cs/0306050, table 2)."""
    folder = Path(str(DATA)) / "conll2003"
    objective = Tags(paths=[str(folder / "eng.train.txt.xz")], heldout=[str(folder / "eng.testa.txt.xz")])
    assert (len(objective.gold["train"]), len(objective.gold["heldout"])) == (14_041, 3250)
    assert sum(len(entities(tags)) for tags in objective.gold["heldout"]) == 5942


# --- spans


def squad(*asked: tuple[str, str, Sequence[tuple[str, int]]]) -> str:
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": f"q{number}",
                    "question": question,
                    "answers": [{"text": text, "answer_start": start} for text, start in answers],
                    "is_impossible": not answers,
                }
            ],
        }
        for number, (question, context, answers) in enumerate(asked)
    ]
    return json.dumps({"data": [{"paragraphs": paragraphs}]})


def test_an_answer_is_found_by_its_bytes_behind_the_question(tmp_path: Path) -> None:
    text = squad(("where?", "In Z\u00fcrich, so", [("Z\u00fcrich", 3)]))
    objective = prepared(Spans(**files(tmp_path, text, "json")))
    (batch,) = objective.heldout()
    first, last = ((batch.target_BS[0] & bit).nonzero().item() for bit in (1, 2))
    assert Letters().decode(batch.inputs.token_BS[0, first : last + 1].tolist()) == "Z\u00fcrich"
    assert batch.inputs.type_BS[0].tolist() == [0] * 8 + [1] * 15
    assert not batch.counted_BS[0, 0]
    logits = torch.zeros(1, batch.target_BS.shape[1], 2)
    logits[0, first, 0] = logits[0, last, 1] = 9.0
    model = Saying([0], 1)
    model.logits = logits
    assert [value.item() for value, _ in objective.scores(model, batch).values()] == [1.0, 1.0]


def test_a_question_without_answer_points_at_the_first_token(tmp_path: Path) -> None:
    text = squad(("a?", "b c", [("b", 0)]), ("d?", "e f", []))
    objective = prepared(Spans(**files(tmp_path, text, "json")))
    (batch,) = objective.heldout()
    assert batch.target_BS[1].tolist()[0] == 3
    assert batch.counted_BS[:, 0].all()
    model = Saying([0], 1)
    model.logits = torch.zeros(*batch.target_BS.shape, 2)
    model.logits[:, 0] = 9.0
    assert objective.scores(model, batch)["exact_match"][0].tolist() == [0.0, 1.0]


def test_an_answer_behind_the_cut_is_held_out_but_not_trained_on(tmp_path: Path) -> None:
    text = squad(("a?", "b" * 40 + " c", [("c", 41)]), ("d?", "e f", [("e", 0)]))
    objective = prepared(Spans(**files(tmp_path, text, "json")))
    assert (len(objective.rows["train"]), len(objective.rows["heldout"])) == (1, 2)
    with pytest.raises(ProblemError, match="no answer lies within the first 8 tokens"):
        prepared(Spans(**files(tmp_path, squad(("a?", "b" * 40 + " c", [("c", 41)])), "json")), length=8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ('{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "has no 'context'"),
        ('{"data": [{"paragraphs": [{"qas": 1, "context": ""}]}]}', "a value has another type"),
        (squad(("a?", "b c", [("c", 0)])), "the answer 'c' does not stand at character 0"),
        ('{"data": []}', "the files have no questions"),
    ],
)
def test_a_file_that_is_not_squads_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        Spans(**files(tmp_path, text, "json"))


# --- hidden tokens


def masked(**options: Any) -> Any:
    return prepared(MaskedTokens(share=0.15, mask_token=MASK), length=64, batch_size=32, **options)


def test_fifteen_of_a_hundred_tokens_are_chosen_and_hidden_as_in_bert() -> None:
    objective = masked()
    batches: list[Any] = [objective.batches(step)[0] for step in range(40)]
    read, target, chosen = (
        torch.cat([each for batch in batches for each in rows(batch)])
        for rows in (lambda b: b.inputs.token_BS, lambda b: b.target_BS, lambda b: b.counted_BS)
    )
    assert torch.equal(read[~chosen], target[~chosen])
    shares = [(read == MASK)[chosen], ((read != MASK) & (read != target))[chosen], (read == target)[chosen]]
    assert [float(each.float().mean()) for each in shares] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert all(int(batch.counted_BS[row].sum()) == 9 for batch in batches for row in range(32))  # 15 % of 63


def test_each_row_begins_with_the_end_token_which_is_never_chosen() -> None:
    (batch,) = masked().batches(5)
    assert (batch.inputs.token_BS[:, 0] == END).all()
    assert not batch.counted_BS[:, 0].any()
    assert batch.inputs.token_BS.shape == (32, 64)


def test_the_choice_changes_with_step_and_seed_and_with_nothing_else() -> None:
    first, again, other = masked().batches(7)[0], masked().batches(7)[0], masked().batches(8)[0]
    assert torch.equal(first.inputs.token_BS, again.inputs.token_BS)
    assert not torch.equal(first.counted_BS, other.counted_BS)
    reseeded = masked()
    reseeded.prepare(TrainingData(**{**_fields(reseeded.data), "seed": 4}))
    assert not torch.equal(first.counted_BS, reseeded.batches(7)[0].counted_BS)


def _fields(data: TrainingData) -> dict[str, Any]:
    return {name: getattr(data, name) for name in data.__slots__}


def test_a_mask_that_the_text_may_hold_is_refused() -> None:
    for token in (5, 300):
        with pytest.raises(ProblemError, match=f"token {token} is no special token"):
            prepared(MaskedTokens(mask_token=token))
