"""An artifact as a model that reads and writes text, decoded without torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from penstock.data_prep.published import PublishedTokenizer
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.generate.model import TRAINED_SPECIAL, NextTokens, Sampling, TextModel
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.registry import Registry
from penstock.quant158.artifact import Artifact
from penstock.quant158.decoder import Decoder, Text, decodable
from penstock.run.config import resolved_run_config

TOKENIZER = "tokenizer.json"


def decoded(path: Path, registry: Registry) -> TextModel:
    """Raises `NotDecodableError` for an artifact that only torch can run, `ProblemError` for one that is damaged."""
    artifact = Artifact.open(path)
    description = decodable(artifact, artifact.header.decoder, str(path))
    artifact.verify()
    config = resolved_run_config(dict(artifact.header.run), f"{path}: run", registry)
    tokenizer_json = artifact.file(TOKENIZER)
    end = BpeTokenizer(tokenizer_json, f"{path}: {TOKENIZER}").end_of_text
    ends = architecture_settings(config.model).eos_token_id
    decoder = Decoder(artifact, description)
    return TextModel(
        name=str(path),
        model=decoder,
        next_tokens=tokens_of(decoder),
        vocabulary_size=description.vocabulary,
        tokenizer=PublishedTokenizer.of_trained(tokenizer_json),
        config=config,
        begins=(end,),  # as documents did in training
        ends=frozenset((end, *(ends if isinstance(ends, list) else () if ends is None else (ends,)))),
        positions=description.positions,
        special=dict(TRAINED_SPECIAL),
    )


def tokens_of(decoder: Decoder) -> NextTokens:
    """See `NextTokens`. What a prompt has in common with the last text, such as a chat's turns, is not read again."""
    idle: list[_Read] = []

    def continued(prompt_tokens: Sequence[int], sampling: Sampling, tokens: int) -> Iterator[int]:
        room = len(prompt_tokens) + tokens
        read = idle.pop() if idle else _Read(decoder, room)
        if read.text.capacity < room:
            read = _Read(decoder, room)
        fresh = read.begin(prompt_tokens)
        read.text.seed(sampling.seed)
        try:
            for _ in range(tokens):
                token = read.next(fresh, sampling)
                yield token
                fresh = [token]
        finally:
            idle[:] = [read]

    return continued


class _Read:
    """A text with the tokens that were read."""

    def __init__(self, decoder: Decoder, room: int) -> None:
        self.text: Text = decoder.text(max(2 * room, 1024))  # a chat goes on
        self.tokens: list[int] = []

    def begin(self, prompt_tokens: Sequence[int]) -> list[int]:
        """What is left to read of a prompt, at least its last token."""
        pairs = zip(self.tokens, prompt_tokens[:-1], strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.text.cut(same)
        del self.tokens[same:]
        return list(prompt_tokens[same:])

    def next(self, fresh: list[int], sampling: Sampling) -> int:
        token = self.text.next(fresh, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        self.tokens += fresh
        return token
