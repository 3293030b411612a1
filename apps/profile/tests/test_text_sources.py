"""What `--corpus` names, and which domains it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.profile.text_sources import Source, text_sources


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("texts/plays/a.txt", "texts/plays/b.txt", "texts/sums.part.txt", "texts/.hidden", "odd=name.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {path.name}")
    Path("rows.jsonl").write_text('{"question": "how many?"}\n')
    Path("other").mkdir()
    Path("other/plays.txt").write_text("more")


def read(sources: list[Source]) -> dict[str | None, list[str]]:
    return {
        source.domain: [document.text for corpus in source.corpora for document in corpus.documents()]
        for source in sources
    }


def test_without_domains_all_text_is_one_source(registry):
    found = text_sources(registry, ["texts/plays", "odd=name.txt"], domains=False)
    assert read(found) == {None: ["text of a.txt", "text of b.txt", "text of odd=name.txt"]}
    assert text_sources(registry, [], domains=False) == []


def test_each_of_several_is_a_domain_by_its_name_or_the_one_it_is_given(registry):
    found = text_sources(registry, ["texts/plays", "sums=texts/sums.part.txt"], domains=True)
    assert read(found) == {"plays": ["text of a.txt", "text of b.txt"], "sums": ["text of sums.part.txt"]}


def test_in_a_single_folder_each_file_and_folder_is_a_domain(registry):
    found = text_sources(registry, ["texts"], domains=True)
    assert read(found) == {"plays": ["text of a.txt", "text of b.txt"], "sums": ["text of sums.part.txt"]}


def test_a_corpus_of_any_kind_can_be_a_domain(registry):
    rows = "{use: jsonl, paths: [rows.jsonl], field: question}"
    assert list(read(text_sources(registry, [rows, "texts"], domains=True))) == ["jsonl", "texts"]
    assert read(text_sources(registry, [f"maths={rows}", "texts"], domains=True))["maths"] == ["how many?"]


def test_a_corpus_may_be_longer_than_the_name_of_a_file(registry):
    rows = f"{{use: jsonl, paths: [{', '.join(['rows.jsonl'] * 40)}], field: question}}"
    assert read(text_sources(registry, [rows], domains=False)) == {None: ["how many?"]}
    assert read(text_sources(registry, [f"maths={rows}", "texts"], domains=True))["maths"] == ["how many?"]
    with pytest.raises(ProblemError, match="there is only one domain, 'jsonl'"):
        text_sources(registry, [rows], domains=True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["nowhere"], "nowhere: file or folder not found"),
        (["plays=nowhere", "texts"], "nowhere: file or folder not found"),
        (["texts/plays/a.txt"], "there is only one domain, 'a', but preferences compare several"),
        (["all=texts"], "there is only one domain, 'all'"),
        (["texts/plays", "other/plays.txt"], r"two domains are named 'plays', name them with --corpus NAME=PATH"),
        (["=texts", "other"], "'=texts' is not NAME=PATH"),
        (["plays= ", "other"], "'plays= ' is not NAME=PATH"),
        (["x" * 300], "file or folder not found"),
        (["{use: txt}", "other"], "unknown corpus 'txt'"),
        (["{use: text}", "other"], "paths"),
    ],
)
def test_what_cannot_be_domains_is_said(registry, texts, message):
    with pytest.raises(ProblemError, match=message):
        text_sources(registry, texts, domains=True)


def test_a_name_without_domains_is_said(registry):
    with pytest.raises(ProblemError, match="NAME= names a domain, but --domains is not set, add --domains"):
        text_sources(registry, ["plays=texts"], domains=False)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_is_not_the_folder_that_one_is_in(registry, text):
    with pytest.raises(ProblemError, match="--corpus: the value is empty"):
        text_sources(registry, [text], domains=False)


def test_an_empty_folder_is_said(registry):
    Path("empty").mkdir()
    with pytest.raises(ProblemError, match="no file in the folder"):
        text_sources(registry, ["empty"], domains=False)
    with pytest.raises(ProblemError, match="the folder is empty, but preferences compare several"):
        text_sources(registry, ["empty"], domains=True)
