"""Laws of the corpora. Expectations come from what the test itself wrote, or from the standard library."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import os
import sys
import sysconfig
from pathlib import Path

import pytest

from penstock.data_prep.cleaning.urls import WITHOUT_URL, Urls
from penstock.data_prep.corpora import HuggingFaceDataset, JsonLines, Parquet, PythonStdlib, TextCorpus
from penstock.hooks.contracts import Corpus, Document
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus.documents()]


def problem_of(corpus: Corpus) -> Problem:
    with pytest.raises(ProblemError) as caught:
        list(corpus.documents())
    return caught.value.problems[0]


# ---------------------------------------------------------------------------------------------- python-stdlib


@pytest.fixture(scope="module")
def stdlib_head() -> list[Document]:
    return list(itertools.islice(PythonStdlib().documents(), 40))


def test_stdlib_documents_are_the_files_on_disk(stdlib_head: list[Document]) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    for document in stdlib_head:
        kind, _, relative = document.source.partition("/")
        assert kind == "stdlib"
        assert document.text == (root / relative).read_text(encoding="utf-8")


def test_stdlib_order_is_sorted_and_repeats(stdlib_head: list[Document]) -> None:
    sources = [Path(document.source) for document in stdlib_head]
    assert sources == sorted(sources)
    assert list(itertools.islice(PythonStdlib().documents(), 40)) == stdlib_head


def test_stdlib_leaves_out_tests_unless_asked_and_installed_packages_always() -> None:
    plain, tested = PythonStdlib(docstrings=False), PythonStdlib(docstrings=False, tests=True)
    for corpus, expected in ((plain, False), (tested, True)):
        wanted = [corpus._wanted(Path(path)) for path in ("unittest/test/a.py", "test/a.py", "lib2to3/tests/a.py")]
        assert wanted == [expected] * 3
        assert not corpus._wanted(Path("site-packages/numpy/a.py"))
        assert not corpus._wanted(Path("_sysconfigdata__linux.py"))
        assert corpus._wanted(Path("json/decoder.py"))


def test_builtin_docstrings_hold_what_help_shows_and_nothing_that_was_patched_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from penstock.data_prep.builtin_docs import builtin_documents

    monkeypatch.setattr("builtins.patched_in", lambda: None, raising=False)
    documents = {document.source: document.text for document in builtin_documents()}
    assert len.__doc__ is not None
    assert f"builtins.len(obj, /)\n{len.__doc__}" in documents["builtin/builtins"]
    assert "str.partition(self, sep, /)" in documents["builtin/builtins"]
    assert "patched_in" not in documents["builtin/builtins"]
    assert set(documents) <= {f"builtin/{name}" for name in sys.builtin_module_names}


# ---------------------------------------------------------------------------------------------- text


def test_text_reads_files_folders_and_globs_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.txt", ".hidden/d.txt", ".e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    everything = ["text of a.md", "text of b.txt", "text of sub/c.txt"]
    assert texts(TextCorpus([tmp_path])) == everything
    assert texts(TextCorpus([tmp_path], pattern="**/*.txt")) == everything[1:]
    assert texts(TextCorpus([tmp_path / "*.txt"])) == everything[1:2]
    assert texts(TextCorpus([tmp_path / "b.txt", tmp_path])) == ["text of b.txt", "text of a.md", "text of sub/c.txt"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_compression_is_invisible(tmp_path: Path, suffix: str) -> None:
    data = "Straße 東京\r\n".encode() * 1000
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compressed(data, suffix))
    assert texts(TextCorpus([path])) == [data.decode()]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_truncated_compressed_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compressed(os.urandom(300_000).hex().encode(), suffix)[:-500])
    problem = problem_of(TextCorpus([path]))
    assert (problem.code, problem.where) == ("damaged-file", str(path))


def compressed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".xz":
        return lzma.compress(data)
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data) if suffix == ".zst" else data


def test_separator_splits_as_str_split_does_across_read_chunks(tmp_path: Path) -> None:
    pieces = [f"story {number} " + "é" * (number * 40_000) for number in range(12)]
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join([*pieces, " ", ""]), encoding="utf-8")
    assert path.stat().st_size > 3 << 20
    assert texts(TextCorpus([path], separator="<|endoftext|>")) == pieces


@pytest.mark.parametrize(
    ("data", "offset"), [(b"abc\0def", 3), (b"caf\xe9", 3), ("é".encode() * 5 + b"\xff\0", 10), (b"\0\xff", 0)]
)
@pytest.mark.parametrize("separator", [None, "|"])
def test_binary_file_is_named_with_the_offset_of_its_first_bad_byte(
    tmp_path: Path, data: bytes, offset: int, separator: str | None
) -> None:
    path = tmp_path / "a.bin"
    head = b"one|two|"
    path.write_bytes(head + data)
    problem = problem_of(TextCorpus([path], separator=separator))
    assert (problem.code, problem.where) == ("not-text", str(path))
    assert f"at byte {len(head) + offset}:" in problem.what


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert texts(TextCorpus([tmp_path])) == ["abc"]


def test_every_path_that_leads_nowhere_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProblemError) as caught:
        list(TextCorpus([tmp_path / "no.txt", tmp_path / "empty", tmp_path / "*.md"]).documents())
    assert [problem.code for problem in caught.value.problems] == ["missing-file", "empty-corpus", "empty-corpus"]


def test_a_path_that_is_longer_than_names_can_be_leads_nowhere() -> None:
    assert problem_of(TextCorpus(["x" * 300])).code == "missing-file"


def test_one_path_in_place_of_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="pass a sequence"):
        list(TextCorpus("a.txt").documents())


@pytest.mark.parametrize("pattern", ["", "/abs/*", "**.txt\0", "nowhere/*", "."])
def test_a_pattern_that_selects_no_files_is_a_problem(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert problem_of(TextCorpus([tmp_path], pattern=pattern)).code in ("invalid-value", "empty-corpus")


def test_the_home_of_an_unknown_user_leads_nowhere() -> None:
    assert problem_of(TextCorpus(["~no-such-user-here/x"])).code == "missing-file"


def test_a_separator_that_no_text_contains_is_refused() -> None:
    with pytest.raises(ProblemError, match="lone surrogate"):
        TextCorpus(["a.txt"], separator="\ud800")


def test_a_file_whose_name_is_not_utf_8_is_read_and_counted(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(name, "w") as file:
        file.write("text")
    corpus = TextCorpus([tmp_path])
    assert texts(corpus) == ["text"]
    assert corpus.fingerprint()["files"] == 1
    with open(name, "wb") as file:
        file.write(b"\xe9")
    assert "not a text file" in problem_of(corpus).what


def test_fingerprint_follows_the_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    corpus = TextCorpus([tmp_path])
    before = corpus.fingerprint()
    assert corpus.fingerprint() == before
    (tmp_path / "b.txt").write_text("two")
    assert corpus.fingerprint() != before


# ---------------------------------------------------------------------------------------------- rows


ROWS = ["one", "two\nlines", "Straße 東京"]


def test_json_lines_yields_the_field_and_says_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps({"body": text, "id": 1}) for text in ROWS))
    documents = list(JsonLines([path], field="body").documents())
    assert [document.text for document in documents] == ROWS
    assert [document.source for document in documents] == [f"{path}:{line}" for line in (1, 3, 5)]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ('{"text": ', "invalid-json", "not valid JSON"),
        ("[1]", "invalid-json", "list"),
        ("[" * 100_000, "invalid-json", "not valid JSON"),
        ('{"text": ' + "9" * 5_000 + "}", "invalid-json", "not valid JSON"),
        ('{"txt": "a"}', "unknown-field", "unknown field 'text'"),
        ('{"text": 3}', "invalid-field", "field 'text' is int"),
        ('{"text": null}', "invalid-field", "field 'text' is null, not a string"),
        (r'{"text": "a \ud800 b"}', "invalid-field", r"field 'text' has a lone surrogate, '\ud800', at character 2"),
    ],
)
def test_bad_line_is_named_with_its_number_and_field(tmp_path: Path, line: str, code: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    problem = problem_of(JsonLines([path]))
    assert (problem.code, problem.where) == (code, f"{path}:2")
    assert said in problem.what


def test_an_address_of_another_type_stops_no_corpus(tmp_path: Path) -> None:
    """Neither the corpus nor the stage that reads addresses."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    strange = ["7", "0", "true", "1e400", '["http://a.org"]', '{"http://a.org": 1}', "null", r'"\ud800"']
    rows = [f'{{"text": "a", "url": {url}}}' for url in [*strange, '"http://a.org"', r'"http://a.org/\ud800"']]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, '{"text": "a"}']))
    parquet.write_table(pyarrow.table({"text": ["a", "a"], "url": [7, None]}), tmp_path / "a.parquet")
    for corpus, without in ((JsonLines([tmp_path], url="url"), 9), (Parquet([tmp_path], url="url"), 2)):
        documents, stage = list(corpus.documents()), Urls()
        assert list(stage.compare([stage.sketch(documents)], documents.__getitem__)) == []
        assert stage.told == {WITHOUT_URL: without}
        with pytest.raises(ProblemError, match="the URL cannot be read: '7'") as caught:
            Urls(missing="refuse").sketch(documents)
        assert caught.value.problems[0].where == documents[0].source


def test_unknown_field_suggests_the_close_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "a"}\n')
    assert problem_of(JsonLines([tmp_path], field="contents")).fix == "did you mean 'content'?"


def test_backups_in_a_folder_of_json_lines_are_not_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl.gz", "a.jsonl~", "a.jsonl.bak", "a.jsonl.1"):
        line = b'{"text": "%s"}\n' % name.encode()
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    assert [document.text for document in JsonLines([tmp_path]).documents()] == ["a.jsonl", "b.jsonl.gz"]
    assert [document.text for document in JsonLines([tmp_path / "a.jsonl.bak"]).documents()] == ["a.jsonl.bak"]


def test_parquet_yields_the_column_and_names_what_is_wrong(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [*ROWS, None], "n": [1, 2, 3, 4]}), path)
    assert list(itertools.islice((d.text for d in Parquet([path]).documents()), 3)) == ROWS
    assert problem_of(Parquet([path])).where == f"{path}:4"
    assert problem_of(Parquet([path], field="m")).code == "unknown-field"
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:-40])
    assert problem_of(Parquet([tmp_path / "b.parquet"])).code == "damaged-file"


def test_hugging_face_dataset_reads_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ROWS))
    assert texts(HuggingFaceDataset(str(tmp_path / "files"))) == ROWS
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ROWS})}).save_to_disk(str(tmp_path / "saved"))
    assert texts(HuggingFaceDataset(str(tmp_path / "saved"))) == ROWS
    assert problem_of(HuggingFaceDataset(str(tmp_path / "saved"), split="test")).code == "missing-dataset"
    assert problem_of(HuggingFaceDataset(str(tmp_path / "saved"), field="texts")).fix == "did you mean 'text'?"


# ---------------------------------------------------------------------------------------------- plugin


def test_every_component_builds_by_name(tmp_path: Path) -> None:
    registry = Registry.discover()
    (tmp_path / "a.txt").write_text("hello")
    assert texts(registry.build("corpus", {"use": "text", "paths": [str(tmp_path)]})) == ["hello"]
    assert next(registry.build("corpus", "python-stdlib").documents()).source.startswith("stdlib/")
    for name in ("jsonl", "parquet"):
        assert problem_of(registry.build("corpus", {"use": name, "paths": [str(tmp_path)]})).code == "empty-corpus"
    registry.build("corpus", {"use": "hf", "name": "some/name"})
    documents = [Document("a", ""), Document("a", "")]
    assert len(list(registry.build("filter", "exact-dedup")(iter(documents)))) == 1
