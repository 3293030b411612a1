"""Documents, corpora, filters and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from penstock.hooks.contracts.tensors import Array


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text and where it came from (a path, a URL, "file.jsonl:17"), and the address that the corpus knows of
    it, if it knows one."""

    text: str
    source: str
    url: str | None = None


class Corpus(Protocol):
    """Yields documents in a fixed order; raises `ProblemError` for unreadable or missing input."""

    def documents(self) -> Iterator[Document]: ...


class DocumentFilter(Protocol):
    """Passes on, drops or rewrites documents, lazily and in order."""

    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]: ...


class Tokenizer(Protocol):
    """Text to token ids and back. Byte-level: `decode(encode(text)) == text`.

    `end_of_text` is the id of the token that separates texts.
    """

    vocabulary_size: int
    end_of_text: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...

    def byte_lengths(self) -> Array:
        """int64 [V]: the bytes of text that each token stands for; 0 for special tokens."""
        ...


@runtime_checkable
class BeginsTexts(Protocol):
    """A tokenizer of a model that may know a token for the beginning of a text, such as Llama's `<s>`, beside the one
    for its end. `begin_of_text` stands before a text with nothing else before it; if the model `always_begins`, it
    stands before everything that the model reads."""

    begin_of_text: int
    always_begins: bool


class TokenSource(Protocol):
    """Prepared tokens as one array of `tokens` ids; `slice` is int64 [stop - start]."""

    tokens: int

    def slice(self, start: int, stop: int) -> Array: ...
