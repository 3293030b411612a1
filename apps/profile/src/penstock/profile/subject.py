"""What `penstock profile` measures: a model, the tokens it reads, and the number of bytes of each token.

It is made from a run, whose held-out tokens are the default text, or from a transformers model with its own tokenizer.
The rest of `profile` does not depend on which.

Shape suffixes: N tokens, B windows of a batch, S positions of a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penstock.data_prep.published import PublishedTokenizer
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.architecture import promised_positions
from penstock.hooks.contracts import Document, LanguageModel
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Registry
from penstock.profile.text_sources import Source
from penstock.train.compose import build_architecture, pick_device, routing_header
from penstock.train.restore import Restored

Integers = NDArray[np.int64]
Encode = Callable[[str], tuple[Integers, Integers]]
"""Maps a text to its tokens [N] and the bytes [N] of each."""

SEQUENCE_LENGTH = 512
BATCH_SIZE = 8
"""Default window of a model without a run: a step is 4,096 tokens, as `simulate` assumes per GPU by default."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Whole windows of text, plus the token after the last one if they are scored: the tokens [N] and the bytes [N] of
    each. `domain` names the domain of the text, if domains are distinguished."""

    token_N: Integers
    byte_N: Integers
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with experts, in evaluation mode, and the text it reads. `header` describes both in its traces; `scored`
    means that every token it reads is followed by one to predict."""

    name: str
    model: LanguageModel
    streams: Sequence[Stream]
    sequence_length: int
    batch_size: int
    header: Mapping[str, Any]
    scored: bool = False

    @property
    def tokens(self) -> int:
        """The number of tokens that the model reads."""
        return sum(len(stream.token_N) - self.scored for stream in self.streams)

    @property
    def byte_count(self) -> int:
        """Bytes of the predicted tokens: all but the first of each stream."""
        return sum(int(stream.byte_N[1:].sum()) for stream in self.streams)

    def batches(self) -> Iterator[tuple[str | None, Tensor]]:
        """The domain and the tokens [B, S] of each batch, on the model's device; no batch mixes domains."""
        device = next(cast(nn.Module, self.model).parameters()).device
        for stream in self.streams:
            read_N = stream.token_N[: len(stream.token_N) - self.scored]
            token_BS = torch.from_numpy(read_N).view(-1, self.sequence_length)
            for batch_BS in token_BS.split(self.batch_size):
                yield stream.domain, batch_BS.to(device)


def subject_of_run(
    restored: Restored,
    sources: Sequence[Source] = (),
    *,
    max_tokens: int | None = None,
    sequence_length: int | None = None,
    scored: bool = False,
) -> Subject:
    """A run's newest checkpoint, and its held-out tokens or the `sources`: at most `max_tokens` of each, plus one
    if they are `scored`. Raises `ProblemError` if the model has no experts or the text is shorter than a window."""
    config, model = restored.config, restored.model
    length = _window_length(model, sequence_length or config.data.sequence_length, max_tokens)
    _require_experts(model, str(restored.run.path))
    tokenizer = restored.tokenizer
    if sources:
        encode = _encoder(tokenizer)
        streams = [_read(source, encode, tokenizer.end_of_text, length, max_tokens, scored) for source in sources]
    else:
        split = restored.dataset.split("heldout")
        upto = _whole_windows(len(split), length, max_tokens, scored, "the held-out split", "--sequence-length")
        token_N = split.slice(0, upto)
        streams = [Stream(token_N, np.asarray(tokenizer.byte_lengths())[token_N])]
    header = {
        **routing_header(config.name, model),
        "split": "corpus" if sources else "heldout",
        "data": _data_hash(streams) if sources else restored.dataset.hash,
        "tokenizer": tokenizer.hash,
        "checkpoint": restored.checkpoint.path.name,
    }
    return Subject(config.name, model, streams, length, config.train.batch_size, header, scored)


def subject_of_model(
    registry: Registry,
    name: str,
    sources: Sequence[Source],
    *,
    max_tokens: int | None = None,
    sequence_length: int | None = None,
    scored: bool = False,
) -> Subject:
    """A transformers model, from a folder or the hub, with its own tokenizer, and the `sources`. Raises `ProblemError`
    like `subject_of_run`, and if the model or tokenizer cannot be loaded."""
    with _said_of(name):
        choice = registry.choose("architecture", {"use": "hf", "pretrained": name})
        tokenizer = PublishedTokenizer.of_model(name)
        model = build_architecture(choice, pick_device("auto"), make_router=None, quantizer=None)
    cast(nn.Module, model).eval()
    _require_experts(model, name)
    config = model.export_config()
    length = sequence_length or min(SEQUENCE_LENGTH, config.get("max_position_embeddings") or SEQUENCE_LENGTH)
    length = _window_length(model, length, max_tokens)
    ends = config.get("eos_token_id")
    end_of_text: int | None = next(iter(ends), None) if isinstance(ends, list) else ends
    encode = _without_begin(tokenizer.encode, end_of_text)
    streams = [_read(source, encode, end_of_text, length, max_tokens, scored) for source in sources]
    _require_embeddings(model, streams, name)
    title = Path(name).resolve().name if Path(name).is_dir() else name
    header = {
        **routing_header(title, model),
        "split": "corpus",
        "data": _data_hash(streams),
        "tokenizer": tokenizer.hash,
    }
    return Subject(title, model, streams, length, BATCH_SIZE, header, scored)


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Reports errors at the model's name instead of at a config that nobody wrote."""
    try:
        yield
    except ProblemError as error:
        raise ProblemError([replace(problem, where=name) for problem in error.problems], error.exit_code) from error


def _encoder(tokenizer: BpeTokenizer) -> Encode:
    length_V = np.asarray(tokenizer.byte_lengths())

    def encode(text: str) -> tuple[Integers, Integers]:
        parts = [np.array(tokenizer.encode(part), dtype=np.int64) for part in tokenizer.parts(text)]
        token_N = np.concatenate([*parts, np.empty(0, dtype=np.int64)])
        tokenizer.require_every_byte(token_N, text.encode())
        return token_N, length_V[token_N]

    return encode


def _without_begin(encode: Encode, end_of_text: int | None) -> Encode:
    """`encode` for documents that follow each other: the end of one is the begin of the next, as in training."""

    def encode_alone(text: str) -> tuple[Integers, Integers]:
        token_N, byte_N = encode(text)
        first = int(len(token_N) > 0 and token_N[0] == end_of_text)
        return token_N[first:], byte_N[first:]

    return encode_alone


def _read(
    source: Source, encode: Encode, end_of_text: int | None, length: int, max_tokens: int | None, scored: bool
) -> Stream:
    """The first windows of a source's documents, each ending with the end-of-text token if the tokenizer has one."""
    name = "the text" if source.domain is None else f"domain '{source.domain}'"
    end_N = np.array([] if end_of_text is None else [end_of_text], dtype=np.int64)
    token_parts, byte_parts, read = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)], 0
    for document in _documents(source, name):
        token_N, byte_N = encode(document.text)
        token_parts += [token_N, end_N]
        byte_parts += [byte_N, np.zeros_like(end_N)]
        read += len(token_N) + len(end_N)
        if max_tokens is not None and read >= max_tokens + scored:
            break
    upto = _whole_windows(read, length, max_tokens, scored, name, "--corpus")
    return Stream(np.concatenate(token_parts)[:upto], np.concatenate(byte_parts)[:upto], source.domain)


def _documents(source: Source, name: str) -> Iterator[Document]:
    """The documents that contain text; others would only give an end-of-text token."""
    empty = True
    for corpus in source.corpora:
        for document in corpus.documents():
            if document.text.strip():
                empty = False
                yield document
    if empty:
        raise ProblemError(Problem("empty-corpus", f"{name} has no text", "--corpus", "give a file that contains text"))


def _window_length(model: LanguageModel, length: int, max_tokens: int | None) -> int:
    most = promised_positions(model.export_config())
    if most is not None and length > most:
        what = f"the model has {most} positions, but a window has {length} tokens"
        raise ProblemError(Problem("bad-value", what, "--sequence-length", f"use at most {most}"))
    if max_tokens is not None and max_tokens < length:
        what = f"{max_tokens} tokens do not fill one window of {length}"
        raise failed(
            "too-few-tokens", what, "--max-tokens", f"read at least {length} tokens, or reduce --sequence-length"
        )
    return length


def _whole_windows(tokens: int, length: int, max_tokens: int | None, scored: bool, name: str, where: str) -> int:
    """The number of tokens of the text `name` that fill whole windows, because padding would count as load, plus the
    one after them if they are scored. Raises `ProblemError` for the option `where` if there is less than a window."""
    windows = min(tokens - scored, max_tokens or tokens) // length
    if windows < 1:
        what = f"{name} has {tokens} tokens, but a window of {length} needs {length + scored}"
        raise failed("too-few-tokens", what, where, "give more text with --corpus, or reduce --sequence-length")
    return windows * length + scored


def _require_experts(model: LanguageModel, where: str) -> None:
    if not model.routers:
        what = "the model has no experts, or its routers do not report which experts they chose"
        raise failed("no-experts", what, where, "profile a mixture of experts")
    for layer, router in sorted(model.routers.items()):
        if router.k > router.experts:
            what = f"layer {layer} chooses {router.k} experts per token, but has only {router.experts}"
            raise ProblemError(Problem("bad-value", what, where, "correct the model's config"))
    sizes = sorted({router.experts for router in model.routers.values()})
    if len(sizes) > 1:
        what = f"its layers have different numbers of experts ({', '.join(map(str, sizes))}), which a trace cannot hold"
        raise failed("unequal-layers", what, where, "profile a model whose layers all have the same number of experts")


def _require_embeddings(model: LanguageModel, streams: Sequence[Stream], where: str) -> None:
    largest = max(int(stream.token_N.max()) for stream in streams)
    if largest >= model.vocabulary_size:
        what = f"its tokenizer produces token {largest}, but the model has only {model.vocabulary_size} embeddings"
        fix = "use the model's own tokenizer"
        raise ProblemError(Problem("vocabulary-mismatch", what, where, fix))


def _data_hash(streams: Sequence[Stream]) -> str:
    return hashlib.sha256(b"".join(stream.token_N.tobytes() for stream in streams)).hexdigest()
