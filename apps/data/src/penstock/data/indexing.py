"""What the commands of `penstock data index` do."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.cli.choices import choose
from penstock.cli.stage_progress import StageProgress
from penstock.data_prep.cleaning.index import Match, NearIndex
from penstock.data_prep.cleaning.index_state import MANIFEST
from penstock.data_prep.cleaning.memory import MAX_RAM
from penstock.hooks.atomic import replacing
from penstock.hooks.contracts import Document
from penstock.hooks.document import parse_value
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry

NEAR = "penstock-data-prep:near"
STDIN = "-"
SHOWN = 1000
"""Documents that repeat which a result lists; `--out` has them all."""


def add(folder: Path, corpus: str, settings: str | None, max_ram: int | None, registry: Registry) -> dict[str, Any]:
    documents = choose(registry, "corpus", corpus).build().documents()
    if settings is None and (folder / MANIFEST).exists():
        index = _opened(folder, max_ram)
    else:
        index = NearIndex(folder, _near(settings, max_ram, registry))
    with StageProgress() as progress:
        added = index.add(documents, progress)
    return {"index": str(folder), **asdict(added), "documents": len(index)}


def remove(folder: Path, sources: Sequence[str], max_ram: int | None) -> dict[str, Any]:
    index = _opened(folder, max_ram)
    listed = _stdin().splitlines() if STDIN in sources else []
    removed = index.remove([*(source for source in sources if source != STDIN), *listed])
    return {"index": str(folder), "removed": removed, "documents": len(index)}


def ask(
    folder: Path, corpus: str, most: int, out: Path | None, max_ram: int | None, registry: Registry
) -> dict[str, Any]:
    index = _opened(folder, max_ram)
    if corpus == STDIN:
        documents = iter([Document(_stdin(), STDIN)])
    else:
        documents = choose(registry, "corpus", corpus).build().documents()
    asked = repeating = 0
    shown: list[dict[str, Any]] = []
    with StageProgress() as progress, replacing(out) if out else nullcontext() as file:
        for document, matches in index.ask_all(documents, most, progress):
            asked += 1
            if matches:
                repeating += 1
                row = _row(document, matches)
                if len(shown) < SHOWN:
                    shown.append(row)
                if file:
                    file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    return {"index": str(folder), "asked": asked, "repeat": repeating, "documents": shown}


def describe(folder: Path, check: bool) -> dict[str, Any]:
    index = NearIndex.open(folder)
    if check:
        output.note("reading all files")
        index.check()
    return {"index": str(folder), **asdict(index.summary()), "checked": check}


def compact(folder: Path, max_ram: int | None) -> dict[str, Any]:
    index = _opened(folder, max_ram)
    output.note("merging")
    index.compact()
    return describe(folder, check=False)


def add_text(result: dict[str, Any]) -> str:
    return (
        f"new: {result['new']:,}\nreplaced: {result['replaced']:,}\nalready there: {result['known']:,}\n"
        f"documents: {result['documents']:,}\nindex: {result['index']}"
    )


def ask_text(result: dict[str, Any]) -> str:
    rows = [
        (row["source"], match["source"], f"{match['jaccard']:.2f}")
        for row in result["documents"]
        for match in row["repeats"]
    ]
    more = result["repeat"] - len(result["documents"])
    lines = [output.table(("document", "repeats", "similarity"), rows)] if rows else []
    lines += [f"and {more:,} more; --out FILE lists them all"] if more else []
    lines.append(f"{result['repeat']:,} of {result['asked']:,} documents repeat what the index holds")
    return "\n".join(lines)


def describe_text(result: dict[str, Any]) -> str:
    settings = result["settings"]
    shingle = settings["shingle"]
    rows = [
        ("documents", f"{result['documents']:,}"),
        ("removed, not yet freed", f"{result['removed']:,}"),
        ("size", output.human_bytes(result["bytes"])),
        ("runs", result["runs"]),
        ("scheme", settings["scheme"]),
        ("hash", settings["hash"]),
        ("permutations", f"{settings['permutations']}, seed {settings['seed']}"),
        ("shingles", f"{shingle['size']} {shingle['unit']}s"),
        ("normaliser", settings["normaliser"]),
        ("bands", f"{settings['bands']} x {settings['rows']}"),
        ("near from", f"Jaccard {settings['threshold']:g}, found with probability {settings['recall']:g} or more"),
        *([("checked", "every byte is as it was written")] if result["checked"] else []),
    ]
    return output.table(("index", result["index"]), rows)


def _opened(folder: Path, max_ram: int | None) -> NearIndex:
    return NearIndex.open(folder, MAX_RAM if max_ram is None else max_ram)


def _near(settings: str | None, max_ram: int | None, registry: Registry) -> Any:
    given = parse_value(settings or "{}", "--near")[0]
    if not isinstance(given, dict):
        raise ProblemError(Problem("bad-value", f"'{settings}' is no mapping", "--near", "write {SETTING: VALUE, ...}"))
    limit = {} if max_ram is None else {"max_ram": max_ram}
    return registry.choose("cleaner", {"use": NEAR, **given, **limit}, "--near").build()


def _row(document: Document, matches: Sequence[Match]) -> dict[str, Any]:
    return {"source": document.source, "repeats": [asdict(match) for match in matches]}


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProblemError(Problem("not-text", f"is not UTF-8 ({error})", "stdin", "convert it")) from error
