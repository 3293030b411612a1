"""A corpus on disk, in shards that are read again and again: `documents/00000.jsonl`, a line a document.

The place of a document is its number in the corpus. Beside each shard lies where its lines begin, `00000.starts.npy`,
so that any document is read without the others. The folder is complete or absent.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from penstock.data_prep.atomic import building
from penstock.data_prep.cleaning.memory import SHARD
from penstock.hooks.atomic import read_json, write_json
from penstock.hooks.contracts import Corpus, Document
from penstock.hooks.problems import Problem, ProblemError

INDEX, FORMAT = "index.json", 1
SHARD_BYTES = 16 << 20
LONGEST_BYTES = 256 << 20
"""Text of a document that is refused: a worker takes `SHARD` bytes of memory for each of its bytes."""
REPORT_BYTES = 1 << 20
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of documents; `bytes` counts the UTF-8 of their texts."""

    name: str
    documents: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Documents:
    """The documents of a folder that `copy_corpus` has written."""

    folder: Path
    shards: tuple[Shard, ...]
    corpus: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Documents:
        """Raises `ProblemError` for a folder of another format, or one that is damaged."""
        try:
            found = read_json(folder / INDEX)
            if found["format"] != FORMAT:
                what = f"has format {found['format']}, and this release reads {FORMAT}"
                raise ProblemError(Problem("other-format", what, str(folder / INDEX), "clean the corpus again"))
            return cls(folder, tuple(Shard(**each) for each in found["shards"]), found["corpus"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"is damaged ({type(error).__name__}: {error})"
            raise ProblemError(Problem("damaged-file", what, str(folder / INDEX), "clean the corpus again")) from error

    def __len__(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @cached_property
    def firsts(self) -> list[int]:
        """The place of each shard's first document."""
        return [0, *accumulate(shard.documents for shard in self.shards)][:-1]

    def of_shard(self, number: int) -> Iterator[Document]:
        with (self.folder / self.shards[number].name).open(encoding="utf-8", errors="surrogatepass") as file:
            yield from map(_document, file)

    def at(self, place: int) -> Document:
        number = bisect_right(self.firsts, place) - 1
        name = self.shards[number].name
        with (self.folder / name).open("rb") as file:
            file.seek(int(self._starts(number)[place - self.firsts[number]]))
            return _document(file.readline().decode("utf-8", "surrogatepass"))

    def _starts(self, number: int) -> np.ndarray:
        if number not in self._open:
            self._open[number] = np.load(self.folder / _starts_of(self.shards[number].name), mmap_mode="r")
        return self._open[number]

    @cached_property
    def _open(self) -> dict[int, np.ndarray]:
        return {}

    def damage(self) -> list[Problem]:
        """Shards that are missing or are not those that were written."""
        return [
            Problem("damaged-file", "is missing or has changed", str(path), "clean the corpus into another folder")
            for shard in self.shards
            if not (path := self.folder / shard.name).is_file() or file_sha256(path) != shard.sha256
        ]


def copy_corpus(
    corpus: Corpus,
    folder: Path,
    describe: Mapping[str, Any],
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
    longest_bytes: int = LONGEST_BYTES,
) -> Documents:
    """Writes all documents of a corpus; `describe` says which corpus it is. A shard ends with the document that brings
    it to `shard_bytes`. Raises `ProblemError` for a corpus without documents, and for a document of more than
    `longest_bytes`."""
    shards: list[Shard] = []
    done = reported = 0
    with building(folder) as partial:
        documents = _bounded(corpus.documents(), longest_bytes)
        while True:
            shard = _write_shard(partial, len(shards), documents, shard_bytes)
            if not shard.documents:
                (partial / shard.name).unlink()
                (partial / _starts_of(shard.name)).unlink()
                break
            shards.append(shard)
            done += shard.bytes
            if done - reported >= REPORT_BYTES:
                progress("read", done, None)
                reported = done
        if not shards:
            raise ProblemError(Problem("empty-corpus", "the corpus has no documents", "corpus", "check its paths"))
        progress("read", done, done)
        described = json.loads(json.dumps(describe))
        write_json(partial / INDEX, {"format": FORMAT, "corpus": described, "shards": [*map(asdict, shards)]})
    return Documents(folder, tuple(shards), described)


def _bounded(documents: Iterator[Document], longest: int) -> Iterator[Document]:
    for document in documents:
        size = len(document.text)
        if size > longest or (size * 4 > longest and (size := len(_utf8(document.text))) > longest):
            what = f"a document of {size / 1e6:,.3g} MB, more than {longest / 1e6:,.3g}"
            fix = f"split it into several, or raise `longest_mb` if every worker has {SHARD} times its size of memory"
            raise ProblemError(Problem("document-too-long", what, document.source, fix))
        yield document


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _write_shard(folder: Path, number: int, documents: Iterator[Document], limit: int) -> Shard:
    name = f"{number:05d}.jsonl"
    starts, size, digest = [], 0, hashlib.sha256()
    with (folder / name).open("wb") as file:
        at = 0
        for document in documents:
            row = {"text": document.text, "source": document.source}
            row |= {} if document.url is None else {"url": document.url}
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
            starts.append(at)
            file.write(line)
            digest.update(line)
            at += len(line)
            size += len(_utf8(document.text))
            if size >= limit:
                break
    np.save(folder / _starts_of(name), np.array(starts, dtype=np.int64))
    return Shard(name, len(starts), size, digest.hexdigest())


def _starts_of(name: str) -> str:
    return name.replace(".jsonl", ".starts.npy")


def _document(line: str) -> Document:
    row = json.loads(line)
    return Document(row["text"], row["source"], row.get("url"))


def file_sha256(path: Path) -> str:
    """Of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
