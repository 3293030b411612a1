"""Spans of 50 tokens that repeat across documents: seconds and memory, and that they are those of a naive set.

- Prose: words of Zipf's law, of some six bytes with their space. A fifth of the documents repeat 50 to 400 words of an
  earlier one.
- Short words: the same of words of one letter, with three times as many windows a byte, which need most memory.
- Naive: the first megabyte of each, beside a Python set of tuples of tokens.

Documents are read from a file. Memory is the peak of a whole process, Python and numpy included, so its bar is for
the size that is set; it does not count the documents, of which one is held at a time.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import Bar, finish, json_option, peak_megabytes

from penstock.data_prep.cleaning.substrings import Substrings
from penstock.hooks.contracts import Decision, Document

LENGTH = 50
SHARD = 16 << 20  # bytes, as `penstock data clean` cuts a corpus
KINDS = {"prose": 30_000, "short words": 26}


@dataclass(frozen=True)
class Texts:
    """Texts of a file, of which text i begins at byte `offsets[i]`."""

    path: Path
    offsets: Sequence[int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __call__(self, place: int) -> Document:
        with self.path.open("rb") as file:
            file.seek(self.offsets[place])
            data = file.read(self.offsets[place + 1] - self.offsets[place])
        return Document(data.decode(), str(place))

    def shards(self) -> Iterator[list[Document]]:
        low = 0
        while low < len(self):
            high = max(int(np.searchsorted(self.offsets, self.offsets[low] + SHARD, "right")) - 1, low + 1)
            yield [self(place) for place in range(low, high)]
            low = high

    def first(self, size: int) -> Texts:
        count = max(int(np.searchsorted(self.offsets, size, "right")) - 1, 1)
        return Texts(self.path, self.offsets[: count + 1])


def write_texts(path: Path, words: Sequence[str], size: int) -> Texts:
    generator = np.random.default_rng(0)
    chances = 1 / np.arange(1, len(words) + 1)
    limits = np.cumsum(chances / chances.sum())
    tokens: list[list[str]] = []
    offsets = [0]
    with path.open("wb") as file:
        while offsets[-1] < size:
            drawn = np.searchsorted(limits, generator.random(int(generator.lognormal(5.5, 1)) + 1))
            text = [words[int(number)] for number in np.minimum(drawn, len(words) - 1).tolist()]
            if tokens and generator.random() < 0.2:
                source = tokens[int(generator.integers(len(tokens)))]
                start = int(generator.integers(len(source)))
                text[len(text) // 2 : len(text) // 2] = source[start : start + int(generator.integers(50, 400))]
            tokens = [*tokens[-999:], text]
            offsets.append(offsets[-1] + file.write((" ".join(text) + "\n").encode()))
    return Texts(path, offsets)


def decide(texts: Texts) -> Iterator[tuple[int, Decision]]:
    stage = Substrings(LENGTH)
    return stage.compare([stage.sketch(shard) for shard in texts.shards()], texts)


def measured(texts: Texts) -> dict[str, float]:
    """Runs in a process of its own, because a process only knows the peak of its whole life."""
    wall, cpu = time.perf_counter(), time.process_time()
    decided = sum(1 for _ in decide(texts))
    return {
        "changed": decided,
        "wall s": time.perf_counter() - wall,
        "cpu s": time.process_time() - cpu,
        "peak MB": peak_megabytes(),
    }


def naive(texts: Texts) -> dict[int, tuple[str, ...]]:
    """The tokens that are left of each document that changes."""
    seen = set[tuple[str, ...]]()
    left = dict[int, tuple[str, ...]]()
    for place in range(len(texts)):
        tokens = texts(place).text.split()
        windows = [tuple(tokens[at : at + LENGTH]) for at in range(len(tokens) - LENGTH + 1)]
        bad = {token for at, window in enumerate(windows) if window in seen for token in range(at, at + LENGTH)}
        seen.update(window for at, window in enumerate(windows) if bad.isdisjoint(range(at, at + LENGTH)))
        if bad:
            left[place] = tuple(token for number, token in enumerate(tokens) if number not in bad)
    return left


def against_naive(texts: Texts) -> tuple[int, float]:
    """How many documents differ, and naive's processor seconds over ours."""
    begun = time.process_time()
    expected = naive(texts)
    between = time.process_time()
    found = {place: tuple((decision.text or "").split()) for place, decision in decide(texts)}
    ratio = (between - begun) / (time.process_time() - between)
    return sum(found.get(place) != expected.get(place) for place in found.keys() | expected.keys()), ratio


@click.command(help=__doc__)
@click.option("--megabytes", default=100.0, show_default=True, help="Text of each kind.")
@json_option
def main(megabytes: float, as_json: bool) -> None:
    generator = np.random.default_rng(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for kind, count in KINDS.items():
        sizes = generator.integers(2, 9, count)
        drawn = ["".join(generator.choice(list(letters), size).tolist()) for size in sizes.tolist()]
        words = list(letters) if count == 26 else drawn
        with tempfile.TemporaryDirectory() as folder:
            texts = write_texts(Path(folder) / "texts", words, int(megabytes * 1e6))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                result = pool.apply(measured, (texts,))
            differing, ratio = against_naive(texts.first(1_000_000))
        size = texts.offsets[-1]
        memory = result["peak MB"] * 1e6 / size
        rows.append({"text": kind, "MB": size / 1e6, "documents": len(texts), **result})
        rows[-1] |= {"MB/cpu s": size / 1e6 / result["cpu s"], "memory/text": memory, "naive/ours, cpu": ratio}
        bars += [
            Bar(f"{kind}: wall s", result["wall s"], 120, at_least=False),
            Bar(f"{kind}: bytes of memory a byte of text", memory, 6, at_least=False),
            Bar(f"{kind}: documents of 1 MB not as by a naive set", differing, 0, at_least=False),
        ]
    finish("substrings", rows, bars, as_json, tokens=LENGTH)


if __name__ == "__main__":
    main()
