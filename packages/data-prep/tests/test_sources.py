"""A file is one file, however its path is written: in an index, in a corpus, among evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.data_prep.cleaning.decontaminate import decontamination
from penstock.data_prep.cleaning.index import Added, NearIndex
from penstock.data_prep.cleaning.index_run import write_index_run
from penstock.data_prep.cleaning.index_state import IndexState, RunLine
from penstock.data_prep.cleaning.near import NearDuplicates
from penstock.data_prep.cleaning.sources import Sources
from penstock.data_prep.corpora import JsonLines, TextCorpus
from penstock.data_prep.files import find_files
from penstock.hooks.contracts import Document

TEXTS = [" ".join(f"word{number}of{place}" for place in range(30)) for number in range(3)]


@pytest.fixture
def spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of one file of JSON lines."""
    for folder in ("u", "v"):
        (tmp_path / folder).mkdir()
    (tmp_path / "u" / "pa.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "u" / "link.jsonl").symlink_to("pa.jsonl")
    (tmp_path / "v" / "u").symlink_to(tmp_path / "u")
    monkeypatch.chdir(tmp_path / "u")
    return [
        "pa.jsonl",
        "../u/pa.jsonl",
        "./pa.jsonl",
        str(tmp_path / "u" / "pa.jsonl"),
        "link.jsonl",
        "../v/u/pa.jsonl",
    ]


def lines(path: str) -> list[Document]:
    return list(JsonLines([path]).documents())


def test_lines_of_a_file_are_known_by_every_path(spelt: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    index = NearIndex("../index", NearDuplicates())
    assert index.add(lines(spelt[1])) == Added(new=3)
    for path in spelt:
        assert index.add(lines(path)) == Added(known=3)
        assert index.ask(lines(path)) == [[], [], []]
    asked = Document(TEXTS[0], "another")
    assert [match.source for match in index.ask([asked])[0]] == ["pa.jsonl:1"]
    monkeypatch.chdir("../v")
    index = NearIndex.open(Path("../index"))
    (match,) = index.ask([asked])[0]
    assert match.source == f"{Path('../u').resolve()}/pa.jsonl:1"
    Path("../u/pa.jsonl").write_text(json.dumps({"text": "another text of a few words"}))
    assert index.add(lines("u/pa.jsonl")) == Added(replaced=1)
    Path("../u/pa.jsonl").unlink()
    assert index.remove(["u/pa.jsonl:1", "../u/pa.jsonl:2", match.source.replace(":1", ":3")]) == 3
    assert len(index) == 0


@pytest.mark.parametrize("stored", ["pa.jsonl", "../u/pa.jsonl"])
def test_an_index_of_an_earlier_release_knows_its_documents(spelt: Sequence[str], stored: str) -> None:
    """Those releases stored sources as they were written."""
    near = NearDuplicates()
    index, documents = NearIndex("../index", near), lines(stored)
    state = IndexState.read(Path("../index"))
    sets = [near.shingle_set(document.text) for document in documents]
    folder = state.folder_of(0)
    folder.mkdir()
    counts = write_index_run(folder, near.sketch(documents), [document.source for document in documents], sets)
    replace(state, runs=(RunLine(0, *counts, {}),), next=1).write()
    for path in spelt if stored == "pa.jsonl" else [stored]:
        assert index.add(lines(path)) == Added(known=3)
        assert index.ask(lines(path)) == [[], [], []]
    changed = [replace(document, text=f"{document.text} and more") for document in documents]
    assert index.add(changed) == Added(replaced=3)
    assert len(index) == 3
    assert index.remove([f"{stored}:2"]) == 1


def test_sources_that_name_no_file_stay_as_they_are(spelt: Sequence[str]) -> None:
    sources = Sources()
    others = (
        "hub/name:train:17",
        "stdlib/ast.py",
        "-",
        "gone.jsonl:3",
        "a\0b:1",
        "a\ud800:1",
        "x" * 5000,
        "",
        ":1",
        "line\n2:1",
    )
    for source in others:
        assert sources.stored(source) == source
        assert source in sources.spellings(source)
    real = str(Path("pa.jsonl").resolve())
    assert sources.stored("link.jsonl") == real
    assert sources.stored("link.jsonl:12") == f"{real}:12"
    Path("odd:7").write_text("a file, and no line of one")
    assert sources.shown(sources.stored("odd:7")) == "odd:7"
    assert sources.shown("/elsewhere/a.txt") == "/elsewhere/a.txt"


def test_a_corpus_reads_a_file_once(spelt: Sequence[str]) -> None:
    assert find_files([*spelt, ".", "*.jsonl"], "**/*") == [Path("pa.jsonl")]
    assert [document.source for document in JsonLines([spelt[1], *spelt]).documents()] == [
        f"../u/pa.jsonl:{line}" for line in (1, 2, 3)
    ]
    assert len(list(TextCorpus(["..", "."]).documents())) == 1


def test_evaluations_are_read_once(spelt: Sequence[str]) -> None:
    Path("pa.jsonl").write_text(json.dumps({"text": "Yes"}))
    assert decontamination(spelt).unchecked == {"pa": 1}
