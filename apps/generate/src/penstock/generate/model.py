"""A model that reads and writes text; imports no torch, which a decoder does without."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from penstock.data_prep.published import PublishedTokenizer
from penstock.data_prep.tokenizer import END_OF_TEXT
from penstock.generate.stops import StopTexts
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.run.config import RunConfig

COLDEST = 1e-4
"""The lowest temperature that is not greedy: logits divided by less overflow fp32."""
TRAINED_SPECIAL: dict[str, str] = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
"""The special tokens of a model that we trained, under the names that its export gives them."""


class StoppedBy(StrEnum):
    """Why a text ended."""

    END_OF_TEXT = "end-of-text"
    STOP_TEXT = "stop-text"
    TOKENS = "tokens"
    POSITIONS = "positions"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and how many at most. `temperature` 0 takes the likeliest token each time; `top_k` and
    `top_p` choose only among the most likely ones. The text ends before the first of the texts `stop`."""

    tokens: int = 256
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises `ProblemError` with everything that cannot be. One `stop` may be given as it is."""
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        problems = [
            Problem("bad-value", f"is {value}", name, fix)
            for name, value, possible, fix in (
                ("tokens", self.tokens, self.tokens >= 1, "generate at least one token"),
                ("temperature", self.temperature, _possible_temperature(self.temperature), f"use 0, or {COLDEST} up"),
                ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "use at least 1"),
                ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "use a share above 0, up to 1"),
                ("seed", self.seed, 0 <= self.seed < 2**63, "use 0 to 2**63 - 1"),
                ("stop", "an empty text", "" not in self.stop, "leave it out"),
            )
            if not possible
        ]
        if problems:
            raise ProblemError(problems)


def _possible_temperature(value: float) -> bool:
    return value == 0 or (math.isfinite(value) and value >= COLDEST)


class NextTokens(Protocol):
    """Continues a prompt by at most `tokens` tokens, chosen as `sampling` says, whatever its own `tokens` are."""

    def __call__(self, prompt_tokens: Sequence[int], sampling: Sampling, tokens: int) -> Iterator[int]: ...


@dataclass(slots=True)
class Continuation:
    """The text after a prompt, in pieces as it is generated. What it says of the text is complete once it has ended.

    The model took `first_seconds` for the first token, which includes reading the prompt, and `next_seconds` for the
    others."""

    prompt_tokens: int
    new_tokens: int = 0
    first_seconds: float = 0.0
    next_seconds: float = 0.0
    text: str = ""
    stopped_by: StoppedBy | None = None
    pieces: Iterator[str] = field(default=iter(()), repr=False)

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first; None if there are none."""
        return (self.new_tokens - 1) / self.next_seconds if self.next_seconds else None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = next(self.pieces)
        self.text += piece
        return piece


@dataclass(frozen=True, slots=True)
class TextModel:
    """A model with its tokenizer.

    `model` is what computes: the `LanguageModel`, a torch module in evaluation mode, or the decoder of an artifact. The
    ternary weights of an artifact that torch runs are on the device `meta` where they stay packed.
    `next_tokens` are its tokens, of which it has `vocabulary_size`. `config` is the config of the run, None for a
    folder without a run. `begins` are the tokens that every prompt begins with; `ends` end a text when generated.
    `positions` is the most tokens that the model reads, None if no limit is known. `template` is the chat template of
    the tokenizer, if it has one, and `special` the texts of special tokens that templates name.
    """

    name: str
    model: Any
    next_tokens: NextTokens
    vocabulary_size: int
    tokenizer: PublishedTokenizer
    config: RunConfig | None
    begins: tuple[int, ...]
    ends: frozenset[int]
    positions: int | None
    template: str | None = None
    special: dict[str, str] = field(default_factory=dict)

    def generate(self, prompt: str, **sampling: Any) -> str:
        """The text after a prompt. `sampling` are the fields of `Sampling`: `tokens`, `temperature`, ..."""
        return "".join(self.stream(prompt, **sampling))

    def stream(self, prompt: str, **sampling: Any) -> Continuation:
        """Like `generate`, piece by piece as the tokens come."""
        return self.continued(self.prompt_tokens(prompt), Sampling(**sampling))

    def prompt_tokens(self, prompt: str, *, spelled: bool = False) -> list[int]:
        """The tokens of a prompt; raises `ProblemError` for one that is not text or leaves nothing to start from.
        `spelled`: special tokens are spelled out in the prompt."""
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            what = f"character {error.start} of the prompt is half of a surrogate pair, which is not valid text"
            raise ProblemError(Problem("not-text", what, "prompt", "write it as UTF-8")) from None
        tokens = [*(() if spelled else self.begins), *self.tokenizer.prompt(prompt, spelled=spelled)]
        if not tokens:
            what = "the prompt is empty, and the tokenizer has no token that begins a text"
            raise ProblemError(Problem("bad-value", what, "prompt", "write a prompt"))
        if max(tokens) >= self.vocabulary_size:
            what = f"its tokenizer produces token {max(tokens)}, but the model has {self.vocabulary_size} tokens"
            raise ProblemError(Problem("vocabulary-mismatch", what, self.name, "use the model's own tokenizer"))
        return tokens

    def room(self, prompt_tokens: Sequence[int]) -> int | None:
        """How many tokens fit after a prompt; None if no limit is known."""
        return None if self.positions is None else self.positions - len(prompt_tokens)

    def continued(self, prompt_tokens: Sequence[int], sampling: Sampling) -> Continuation:
        """The continuation of a prompt; raises `ProblemError` for one that fills all of the model's positions."""
        room = self.room(prompt_tokens)
        if room is not None and room < 1:
            what = f"the prompt has {len(prompt_tokens)} tokens, but the model reads at most {self.positions}"
            raise failed("too-long", what, "prompt", "shorten it")
        result = Continuation(len(prompt_tokens))
        result.pieces = self._pieces(result, prompt_tokens, sampling, room)
        return result

    def _pieces(
        self, result: Continuation, prompt_tokens: Sequence[int], sampling: Sampling, room: int | None
    ) -> Iterator[str]:
        text, stops = self.tokenizer.stream(prompt_tokens), StopTexts(sampling.stop)
        most = sampling.tokens if room is None else min(sampling.tokens, room)
        result.stopped_by = StoppedBy.TOKENS if most == sampling.tokens else StoppedBy.POSITIONS
        for token in _timed(self.next_tokens(prompt_tokens, sampling, most), result):
            result.new_tokens += 1
            if token in self.ends:
                result.stopped_by = StoppedBy.END_OF_TEXT
                break
            yield stops.push(text.push(token))
            if stops.found:
                result.stopped_by = StoppedBy.STOP_TEXT
                return
        yield stops.push(text.finish())
        yield stops.finish()


def _timed(tokens: Iterator[int], result: Continuation) -> Iterator[int]:
    """Tokens as they come; adds up what each took, without what is done with them in between."""
    while True:
        begun = time.perf_counter()
        token = next(tokens, None)
        seconds = time.perf_counter() - begun
        if token is None:
            return
        if result.new_tokens == 0:
            result.first_seconds = seconds
        else:
            result.next_seconds += seconds
        yield token
