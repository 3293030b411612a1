"""Tokenizer and model must belong together, and the special tokens are those of the model's config."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, processors

from penstock.hooks import ProblemError
from penstock.serve.tokenizer import tokenizer_config, with_begin

ROWS = 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<end>": 2, "<user>": 3}, unk_token="a"))
    tokenizer.add_special_tokens(["<end>", "<user>", "<pad>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.mark.parametrize("eos", [2, [2, 3]])
def test_special_tokens_are_the_texts_of_the_ids_and_the_first_of_several(file: Path, eos: int | list[int]):
    described = tokenizer_config(file, {"eos_token_id": eos, "pad_token_id": 4, "bos_token_id": None}, ROWS)
    assert {name: text for name, text in described.items() if name.endswith("_token")} == {
        "eos_token": "<end>",
        "pad_token": "<pad>",
    }


def test_the_token_before_every_text_is_said_to_begin_texts(file: Path):
    tokenizer = Tokenizer.from_file(str(file))
    assert with_begin({"eos_token_id": 2}, file) == {"eos_token_id": 2}
    tokenizer.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 2)])
    tokenizer.save(str(file))
    config = with_begin({"bos_token_id": None}, file)
    assert config == {"bos_token_id": 2}
    described = tokenizer_config(file, config, ROWS)
    assert (described["bos_token"], described["add_bos_token"]) == ("<end>", True)


@pytest.mark.parametrize("single", ["$A", "$A <end>", "<end> $A <end>"])
def test_tokens_behind_a_text_do_not_begin_it(file: Path, single: str):
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<end>", 2)])
    tokenizer.save(str(file))
    assert with_begin({}, file) == {}


@pytest.mark.parametrize("eos", [None, []])
def test_without_ids_there_are_no_special_tokens(file: Path, eos: list[int] | None):
    assert "eos_token" not in tokenizer_config(file, {"eos_token_id": eos}, ROWS)


def test_the_longest_text_is_the_model_s(file: Path):
    assert tokenizer_config(file, {"max_position_embeddings": 77}, ROWS)["model_max_length"] == 77


def test_ids_without_a_row_are_refused(file: Path):
    tokenizer_config(file, {}, 5)
    with pytest.raises(ProblemError, match="ids up to 4, but the model's embedding has 4 rows"):
        tokenizer_config(file, {}, 4)


def test_a_special_token_that_the_tokenizer_does_not_have_is_refused(file: Path):
    with pytest.raises(ProblemError, match="eos_token_id 151329 is not in the tokenizer"):
        tokenizer_config(file, {"eos_token_id": [151329]}, ROWS)


def test_all_that_does_not_fit_is_said_at_once(file: Path):
    with pytest.raises(ProblemError) as caught:
        tokenizer_config(file, {"eos_token_id": 9, "pad_token_id": 10}, 4)
    assert len(caught.value.problems) == 3


def test_a_missing_file_and_a_file_that_is_no_tokenizer_are_problems(tmp_path: Path):
    with pytest.raises(ProblemError, match="tokenizer file not found"):
        tokenizer_config(tmp_path / "tokenizer.json", {}, ROWS)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ProblemError, match=r"not a tokenizer\.json"):
        tokenizer_config(tmp_path / "tokenizer.json", {}, ROWS)
