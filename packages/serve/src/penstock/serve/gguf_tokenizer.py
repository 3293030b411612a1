"""A `tokenizer.json` as GGUF describes it. llama.cpp knows ways of splitting text by name, and computes no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError
from penstock.serve.tokenizer import begin_of_texts, checked

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {CL100K: "glm4"}
"""Patterns that llama.cpp has, and a name that turns nothing else on: `llama-bpe` looks whole words up first."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens by id, with their types, the merges by rank, the name of the splitting, and the token that begins
    every text, if there is one."""

    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    split: str
    begin: int | None

    @classmethod
    def read(cls, file: Path, rows: int) -> Vocabulary:
        """The vocabulary of a model with so many rows of embeddings. Raises `ProblemError` for a tokenizer that
        llama.cpp does not know, and for one with ids beyond the rows."""
        tokenizer = checked(file, rows)
        document = parse_json(file.read_bytes())
        split = _split_of(document)
        if split is None:
            what = "llama.cpp does not know how this tokenizer splits text"
            fix = "train with a tokenizer of Penstock's own, or export with --for transformers"
            raise ProblemError(Problem("not-exportable", what, str(file), fix))
        special = {token["id"]: token["special"] for token in document["added_tokens"]}
        by_id = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
        types = [
            UNUSED if index not in by_id else NORMAL if index not in special else _type(special[index])
            for index in range(rows)
        ]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in document["model"]["merges"]]
        tokens = [by_id.get(index, f"[unused {index}]") for index in range(rows)]
        return cls(tokens, types, merges, split, begin_of_texts(tokenizer))

    def describe(self, writer: Any, ends: int | Sequence[int] | None) -> None:
        """Adds it to what a `gguf.GGUFWriter` writes. Of several tokens that end a text, GGUF holds the first."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        writer.add_add_bos_token(self.begin is not None)
        if self.begin is not None:
            writer.add_bos_token_id(self.begin)
        first = ends if isinstance(ends, int) else next(iter(ends or ()), None)
        if first is not None:
            writer.add_eos_token_id(first)


def _type(special: bool) -> int:
    return CONTROL if special else USER_DEFINED


def _split_of(document: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for how a byte-level BPE tokenizer splits text. None if it has none, and for other kinds."""
    model, before = document["model"], document.get("pre_tokenizer") or {}
    parts: list[Mapping[str, Any]] = before.get("pretokenizers", [before])
    bytewise = parts[-1]
    plain = model.get("type") == "BPE" and not model.get("ignore_merges") and document.get("normalizer") is None
    if not plain or bytewise.get("type") != "ByteLevel" or bytewise.get("add_prefix_space"):
        return None
    match parts[:-1]:
        case []:
            return "gpt-2" if bytewise.get("use_regex", True) else None
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}]:
            return None if bytewise.get("use_regex", True) else SPLITS.get(pattern)
        case _:
            return None
