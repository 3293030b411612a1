"""The tokenizer's side of an export: checked against the model, and described for `transformers`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from penstock.hooks.architecture import promised_positions
from penstock.hooks.problems import Problem, ProblemError

SPECIAL = ("bos_token", "eos_token", "pad_token")


def tokenizer_config(file: Path, config: Mapping[str, Any], vocabulary_size: int) -> dict[str, Any]:
    """The `tokenizer_config.json` for a `tokenizer.json` and a model's `config.json`.

    Special tokens are those whose ids the config names; of several end-of-text ids, the first. A token that the
    tokenizer puts before every text is said to begin texts, for software that asks. Raises `ProblemError` if
    the file is missing or not a tokenizer, if it has ids without a row in the model, or if the config names an id that
    the tokenizer lacks.
    """
    tokenizer = _read(file)
    problems = _too_many_ids(tokenizer, file, vocabulary_size)
    special: dict[str, str] = {}
    for role in SPECIAL:
        token_id = _first(config.get(f"{role}_id"))
        token = None if token_id is None else tokenizer.id_to_token(token_id)
        if token is not None:
            special[role] = token
        elif token_id is not None:
            what = f"the model's {role}_id {token_id} is not in the tokenizer"
            problems.append(Problem("wrong-tokenizer", what, str(file), f"set {role}_id to an id of the tokenizer"))
    if problems:
        raise ProblemError(problems)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Otherwise decoding removes the space before punctuation, and decode(encode(text)) is not the text.
        "clean_up_tokenization_spaces": False,
        **({} if (most := promised_positions(config)) is None else {"model_max_length": most}),
        **special,
        **({} if begin_of_texts(tokenizer) is None else {"add_bos_token": True}),
    }


def with_begin(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A model's `config.json` with the token that its tokenizer puts before every text, if it does, as
    `bos_token_id`."""
    begin = begin_of_texts(_read(file))
    return dict(config) if begin is None else {**config, "bos_token_id": begin}


def begin_of_texts(tokenizer: Tokenizer) -> int | None:
    """The token that a tokenizer puts before every text. None if it adds no token, or more than that one."""
    begun, bare = (tokenizer.encode("a", add_special_tokens=added).ids for added in (True, False))
    return begun[0] if bare and len(begun) == len(bare) + 1 and begun[1:] == bare else None


def checked(file: Path, vocabulary_size: int) -> Tokenizer:
    """The tokenizer of a file. Raises `ProblemError` if `tokenizers` cannot read it, or if it has ids without a row in
    the model."""
    tokenizer = _read(file)
    if problems := _too_many_ids(tokenizer, file, vocabulary_size):
        raise ProblemError(problems)
    return tokenizer


def _read(file: Path) -> Tokenizer:
    if not file.is_file():
        raise ProblemError(Problem("missing-file", "tokenizer file not found", str(file)))
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more specific
        what = f"not a tokenizer.json ({error})"
        raise ProblemError(Problem("bad-tokenizer", what, str(file), "`penstock prepare` writes one")) from error


def _too_many_ids(tokenizer: Tokenizer, file: Path, vocabulary_size: int) -> list[Problem]:
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest < vocabulary_size:
        return []
    what = f"the tokenizer has ids up to {largest}, but the model's embedding has {vocabulary_size} rows"
    return [Problem("wrong-tokenizer", what, str(file), "use the tokenizer that the model was trained with")]


def _first(ids: int | list[int] | None) -> int | None:
    if isinstance(ids, list):
        return ids[0] if ids else None
    return ids
