"""What stages decided, as files of attributes beside the documents: `decisions/01-exact-1f0c44aa/00000.jsonl`.

A line is the decision of one document of the shard of that name: `{"document": 17, "rule": "exact/document",
"repeats": "a.jsonl:3"}`, where `document` is the place in the corpus; `text` is there if the document goes on with
another text. Documents without a line passed the stage. `stage.json` is written last and counts them. A stage that
finds out languages has those of all documents that came to it in `00000.languages.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.hooks.atomic import read_json, replacing, write_json
from penstock.hooks.contracts import Decision, Document

STAGE = "stage.json"
Decided = tuple[int, Decision]


@dataclass(frozen=True, slots=True)
class StageCounts:
    """What a stage did: documents that came to it, those that it removed and changed, removed bytes of text, and how
    often each rule decided. `sha256` is that of all its decisions. `told` is what the stage counts besides: its
    attribute `told`, such as documents without a URL."""

    documents: int
    removed: int
    changed: int
    removed_bytes: int
    rules: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""
    told: Mapping[str, int] = field(default_factory=dict)


def write_decisions(path: Path, decided: Iterable[Decided]) -> None:
    """Replaces the file of one shard, whole or not at all."""
    with replacing(path) as file:
        for place, decision in decided:
            row: dict[str, Any] = {"document": place, "rule": decision.rule}
            row |= {"detail": decision.detail} if decision.detail else {}
            row |= {"repeats": decision.repeats} if decision.repeats is not None else {}
            row |= {"text": decision.text} if decision.text is not None else {}
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))


def read_decisions(path: Path) -> Iterator[Decided]:
    """Ascending by place."""
    with path.open(encoding="utf-8", errors="surrogatepass") as file:
        for line in file:
            row = json.loads(line)
            yield row.pop("document"), Decision(**row)


def languages_file(decisions: Path) -> Path:
    """The file of a shard's languages, beside that of its decisions."""
    return decisions.with_suffix(".languages.jsonl")


def write_languages(path: Path, told: Iterable[tuple[int, str]]) -> None:
    """Places and languages. Replaces the file, whole or not at all."""
    with replacing(path) as file:
        for place, language in told:
            file.write((json.dumps({"document": place, "language": language}) + "\n").encode())


def read_languages(path: Path) -> Iterator[tuple[int, str]]:
    """Places and languages; nothing where the stage told no languages."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield row["document"], row["language"]


def starts_of_texts(path: Path) -> Iterator[tuple[int, int]]:
    """The place of each document whose text a stage made, and where in the file its line begins."""
    start = 0
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line.decode("utf-8", "surrogatepass"))
            if "text" in row:
                yield row["document"], start
            start += len(line)


def text_at(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return json.loads(file.readline().decode("utf-8", "surrogatepass"))["text"]


def write_counts(folder: Path, counts: StageCounts) -> None:
    write_json(folder / STAGE, asdict(counts))


def read_counts(folder: Path) -> StageCounts | None:
    """Of a stage that is done; else None."""
    try:
        return StageCounts(**read_json(folder / STAGE))
    except FileNotFoundError:
        return None


def counted(decided: Iterable[tuple[Document, Decision | None]]) -> StageCounts:
    """Counts over the documents that came to a stage, with what it decided."""
    rules: Counter[str] = Counter()
    documents = removed = changed = removed_bytes = 0
    for document, decision in decided:
        documents += 1
        if decision is None:
            continue
        rules[decision.rule] += 1
        if decision.text is None:
            removed += 1
            removed_bytes += len(document.text.encode("utf-8", "surrogatepass"))
        else:
            changed += 1
    return StageCounts(documents, removed, changed, removed_bytes, dict(sorted(rules.items())))


def added(one: StageCounts, other: StageCounts) -> StageCounts:
    """The counts of two parts of a corpus."""
    return StageCounts(
        one.documents + other.documents,
        one.removed + other.removed,
        one.changed + other.changed,
        one.removed_bytes + other.removed_bytes,
        dict(sorted((Counter(one.rules) + Counter(other.rules)).items())),
    )


def digest(files: Iterable[Path]) -> str:
    """SHA-256 of the decisions of all shards, in order."""
    found = hashlib.sha256()
    for path in files:
        found.update(path.read_bytes())
    return found.hexdigest()
