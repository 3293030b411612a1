"""Texts of evaluations in training documents: a run of 13 words that both have.

Overlaps of 13 words, and of whole texts of at least 8, are those of GPT-3 (Brown et al., 2020, arXiv 2005.14165,
appendix C). Words are compared without case and punctuation, so that a question that was printed otherwise is found.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from penstock.data_prep.cleaning.normalise import SEPARATORS, UNSEEN, Normaliser, require_choice
from penstock.data_prep.cleaning.windows import (
    BREAK,
    Tokens,
    contained,
    cut_out,
    encoded,
    find_tokens,
    find_windows,
    same_tokens,
)
from penstock.data_prep.corpora import JsonLines
from penstock.data_prep.files import find_files
from penstock.hooks.contracts import Array, Decision, Document
from penstock.hooks.json_lines import is_json_lines
from penstock.hooks.problems import Problem, ProblemError

Action = Literal["remove", "cut"]
_CHUNK = re.compile(rf"[\u3000-\u3163\u3165-\u9fff][\uff9e\uff9f{UNSEEN}]*|[^\s{SEPARATORS}\u3000-\u9fff]+")
"""What is normalised alone when places are asked for: no rule of the normaliser looks beyond whitespace and separators,
nor beyond a Japanese character, its sound mark, and what is not seen behind it."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Words of a document that stand in evaluations."""

    names: tuple[str, ...]
    """Of the evaluations."""
    start: int
    """[start, stop) in characters of the document in Unicode's composed form (NFC)."""
    stop: int


class Decontamination:
    """Removes documents that share `words` successive words with a text of an evaluation, or cuts the words out.

    `texts` are pairs of the evaluation's name and a text of it, such as a question or an answer. A text of fewer words
    is looked for as a whole if it has at least `shortest`; `unchecked` counts the others by name. `cut` puts a form
    feed in place of each overlap. Raises `ProblemError` for settings out of range.
    """

    def __init__(
        self,
        texts: Iterable[tuple[str, str]],
        words: int = 13,
        shortest: int = 8,
        action: Action = "remove",
    ) -> None:
        require_choice("action", action, ("remove", "cut"))
        if not 1 <= shortest <= words:
            what = f"{shortest} words at least, {words} at most"
            raise ProblemError(Problem("invalid-value", what, "shortest", "1 or more, and no more than words"))
        self._action = action
        self._normaliser = Normaliser()
        self.unchecked: Counter[str] = Counter()
        by_length: dict[int, list[tuple[str, str]]] = {}
        for name, text in texts:
            text = self._normaliser(text)
            count = len(find_tokens(_bytes(text)).starts_T)
            if count < shortest:
                self.unchecked[name] += 1
            else:
                by_length.setdefault(min(count, words), []).append((name, text))
        self.told = {f"texts of {name} that are too short to look for": n for name, n in self.unchecked.items()}
        self._grams = [_Grams.of(length, by_length[length]) for length in sorted(by_length)]
        self._shortest = shortest
        self._short_hashes = np.unique(
            np.concatenate([np.empty(0, np.uint64), *(self._hashes(grams.data) for grams in self._grams)])
        )

    def judge(self, document: Document) -> Decision | None:
        text = unicodedata.normalize("NFC", document.text)
        overlaps = self.overlaps(text) if self._may_overlap(text) else []
        if not overlaps:
            return None
        first = overlaps[0]
        excerpt = " ".join(text[first.start : min(first.stop, first.start + 120)].split())
        others = f" and {len(overlaps) - 1:,} more places" if len(overlaps) > 1 else ""
        detail = f"{', '.join(first.names)} at character {first.start:,}, '{excerpt}'{others}"
        rest = ""
        while self._action == "cut" and overlaps:  # what comes together by a cut may be words of an evaluation, too
            rest = text = cut_out(text, [(each.start, each.stop) for each in overlaps])
            overlaps = self.overlaps(text)
        return Decision(f"decontaminate/{first.names[0]}", detail, text=rest or None)

    def overlaps(self, text: str) -> list[Overlap]:
        """Every place where words of a text stand in evaluations, ascending; places that overlap are one."""
        text = unicodedata.normalize("NFC", text)
        chunks = list(_CHUNK.finditer(text))
        normalised = [self._normaliser(each.group()) for each in chunks]
        data = _bytes(" ".join(normalised))
        tokens = find_tokens(data)
        ends = np.cumsum([len(encoded(each)) + 1 for each in normalised])
        chunk_T = np.searchsorted(ends, tokens.starts_T, "right").tolist()
        found: list[Overlap] = []
        for first, stop, names in sorted(hit for grams in self._grams for hit in grams.find(data, tokens)):
            start, end = chunks[chunk_T[first]].start(), chunks[chunk_T[stop - 1]].end()
            if found and start < found[-1].stop:
                last = found.pop()
                start, end, names = last.start, max(end, last.stop), (*last.names, *names)
            found.append(Overlap(tuple(dict.fromkeys(names)), start, end))
        return found

    def _may_overlap(self, text: str) -> bool:
        """Whether the text shares `shortest` words with evaluations, without which it shares no more; few texts do."""
        data = _bytes(self._normaliser(text))
        return bool(contained(self._hashes(data), self._short_hashes).any())

    def _hashes(self, data: Array) -> Array:
        return find_windows(data, find_tokens(data), self._shortest).hashes_W


def decontamination(
    paths: Sequence[str | Path], words: int = 13, shortest: int = 8, action: Action = "remove"
) -> Decontamination:
    """`Decontamination` of JSON Lines files, with texts under `text`; the name of a file before its first dot is that
    of the evaluation. Raises `ProblemError` for files that are missing or damaged."""
    files = find_files(paths, "**/*.jsonl*", is_json_lines)
    texts = ((file.name.partition(".")[0], each.text) for file in files for each in JsonLines([file]).documents())
    return Decontamination(texts, words, shortest, action)


@dataclass(frozen=True, slots=True)
class _Grams:
    """The runs of `length` words of some texts, each once for an evaluation, in the order of their hashes.

    Shape suffix: G runs.
    """

    length: int
    data: Array  # uint8 [B]
    names: tuple[str, ...]
    hashes_G: Array  # uint64
    name_G: Array  # int64, a place in `names`
    starts_G: Array  # int64, a place in `data`
    ends_G: Array  # int64

    @classmethod
    def of(cls, length: int, texts: Sequence[tuple[str, str]]) -> _Grams:
        data = _bytes(BREAK.join(text for _, text in texts))
        windows = find_windows(data, find_tokens(data), length)
        names = tuple(dict.fromkeys(name for name, _ in texts))
        numbers = {name: number for number, name in enumerate(names)}
        text_of = np.searchsorted(np.flatnonzero(data == ord(BREAK)), windows.starts_W)
        name_of = np.array([numbers[name] for name, _ in texts])[text_of]
        order = np.lexsort((name_of, windows.hashes_W))
        hashes, name_of = windows.hashes_W[order], name_of[order]
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(hashes) != 0) | (np.diff(name_of) != 0)
        chosen = order[new]
        return cls(length, data, names, hashes[new], name_of[new], windows.starts_W[chosen], windows.ends_W[chosen])

    def find(self, data: Array, tokens: Tokens) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """First token, the one after the last, and names of each run that some bytes have too."""
        windows = find_windows(data, tokens, self.length)
        starts_W, ends_W = windows.starts_W, windows.ends_W
        for at in np.flatnonzero(contained(windows.hashes_W, self.hashes_G)).tolist():
            low, high = (np.searchsorted(self.hashes_G, windows.hashes_W[at], side) for side in ("left", "right"))
            mine = data[starts_W[at] : ends_W[at]]
            grams = [
                gram
                for gram in range(int(low), int(high))
                if same_tokens(mine, self.data[self.starts_G[gram] : self.ends_G[gram]])
            ]
            if grams:
                first = int(windows.first_W[at])
                yield first, first + self.length, tuple(self.names[self.name_G[gram]] for gram in grams)


def _bytes(text: str) -> Array:
    return np.frombuffer(encoded(text), np.uint8)
