"""The requests of `serving.py`: when each arrives, and how long its prompt and its answer are.

`serving_trace.jsonl` has the format of Mooncake's traces, a JSON object a line: `timestamp` in milliseconds,
`input_length` and `output_length` in tokens, and `hash_ids`, one for each block of the prompt. Requests whose first
ids are equal have the same beginning. A block is 16 tokens here, where Mooncake's has 512. `python serving_trace.py`
writes the file anew.

Arrivals come in bursts (gamma intervals whose deviation is 1.4 times their mean), lengths are log-normal, and a third
of the prompts begin like others, as with a system prompt.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

FILE = Path(__file__).with_name("serving_trace.jsonl")
REQUESTS, SECONDS, SEED = 64, 10.0, 20
BLOCK = 16
SHARED = ((0, 1, 2), (3, 4))
"""Blocks of the beginnings that prompts share."""
PROMPT, ANSWER, SPREAD = 40, 48, 0.6
"""Median tokens of a prompt and of an answer, and the deviation of their logarithms."""
LENGTHS = (8, 160)


@dataclass(frozen=True, slots=True)
class Arrival:
    """`at` seconds after the start a prompt of `prompt` tokens in `blocks` comes, to be continued by `answer`."""

    at: float
    prompt: int
    answer: int
    blocks: tuple[int, ...]

    @classmethod
    def of(cls, line: str) -> Arrival:
        read = json.loads(line)
        return cls(read["timestamp"] / 1000, read["input_length"], read["output_length"], tuple(read["hash_ids"]))

    def line(self) -> str:
        named = {"timestamp": round(1000 * self.at), "input_length": self.prompt, "output_length": self.answer}
        return json.dumps({**named, "hash_ids": list(self.blocks)})


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to be continued by `tokens`, that arrives `at` seconds after the start."""

    prompt: str
    tokens: int
    at: float = 0.0


class Words:
    """Prompts of so many tokens: each word is one token of the tokenizer, a space and small letters."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        texts = (tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size()))
        whole = (text for text in texts if text[:1] == " " and text[1:].isascii() and text[1:].isalpha())
        self._words = sorted(text for text in whole if len(tokenizer.encode(text, add_special_tokens=False).ids) == 1)

    def prompt(self, arrival: Arrival, salt: str) -> str:
        """Equal blocks have equal words under one salt, and other words under another."""
        blocks = (random.Random(f"{salt}/{block}").choices(self._words, k=BLOCK) for block in arrival.blocks)
        return "".join([*itertools.chain.from_iterable(blocks)][: arrival.prompt])


def drawn(seed: int = SEED) -> Iterator[Arrival]:
    """The trace of a seed."""
    draw = random.Random(seed)
    at, fresh = 0.0, itertools.count(1 + max(map(max, SHARED)))
    for _ in range(REQUESTS):
        at += draw.gammavariate(0.5, 2 * SECONDS / REQUESTS)
        prompt, answer = (_length(draw, median) for median in (PROMPT, ANSWER))
        count = math.ceil(prompt / BLOCK)
        beginning = draw.choice(SHARED)[:count] if draw.random() < 1 / 3 else ()
        yield Arrival(at, prompt, answer, (*beginning, *itertools.islice(fresh, count - len(beginning))))


def _length(draw: random.Random, median: int) -> int:
    shortest, longest = LENGTHS
    return min(longest, max(shortest, round(draw.lognormvariate(math.log(median), SPREAD))))


def trace() -> list[Arrival]:
    """The committed requests."""
    return [Arrival.of(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def arriving(words: Words, salt: str) -> Iterator[Request]:
    """The trace once, as it arrives."""
    return (Request(words.prompt(each, salt), each.answer, each.at) for each in trace())


def saturating(words: Words, salt: str, *, seconds: float, begun: float) -> Iterator[Request]:
    """The lengths of the trace over and over: a request arrives whenever one is taken, until `seconds` have passed."""
    arrivals: Sequence[Arrival] = trace()
    for number in itertools.count():
        if (at := time.perf_counter() - begun) >= seconds:
            return
        again, index = divmod(number, len(arrivals))
        yield Request(words.prompt(arrivals[index], f"{salt}/{again}"), arrivals[index].answer, at)


if __name__ == "__main__":
    FILE.write_text("".join(f"{each.line()}\n" for each in drawn()), encoding="utf-8")
