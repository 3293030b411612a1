"""What `penstock data clean` says of a corpus that cannot be read or written: where and why. It leaves no half of it,
and the same command goes on once the cause is mended."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import run
from penstock.conformance.full_disk import file_size_limit
from penstock.data_prep.cleaning.cleaned import CleanedCorpus
from penstock.hooks import json_lines
from penstock.hooks.problems import Problem, ProblemError

TEXTS = [f"The mill of {name} stands still." for name in ("Ada", "Zoë", "Kurt")]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path


def clean(corpus: str = "{use: jsonl, paths: [in]}", *overrides: str, stage: str = "exact") -> dict[str, Any]:
    lines = (f"corpus: {corpus}", f"stages: [{stage}]", "launcher: {use: local, workers: 1}", "shard_mb: 1")
    Path("clean.yaml").write_text("\n".join(lines))
    return run(["data", "clean", "clean.yaml", *overrides, "--out", "out"])


def refused(*arguments: str) -> Problem:
    """The one problem, after which the folder holds nothing."""
    with pytest.raises(ProblemError) as raised:
        clean(*arguments)
    assert list(Path("out").iterdir()) == []
    (problem,) = raised.value.problems
    return problem


def rows(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def left() -> list[str]:
    return [document.text for document in CleanedCorpus("out").documents()]


def test_a_line_of_another_encoding_is_named() -> None:
    Path("in/a.jsonl").write_bytes(rows(TEXTS[0]))
    mixed = rows(TEXTS[0], TEXTS[2]) + rows(TEXTS[1]).decode().encode("latin-1")
    Path("in/b.jsonl").write_bytes(mixed)
    problem = refused()
    assert (problem.code, problem.where) == ("not-text", "in/b.jsonl:3")
    assert "0xeb at byte 24 of the line" in problem.what
    Path("in/b.jsonl").write_bytes(mixed.decode("latin-1").encode())
    assert clean()["documents"] == 4
    assert left() == [TEXTS[0], TEXTS[2], TEXTS[1]]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_of_another_encoding_is_named(encoding: str) -> None:
    Path("in/a.txt").write_text(TEXTS[1], encoding="utf-8")
    Path("in/b.txt").write_text(TEXTS[1], encoding=encoding)
    problem = refused("{use: text, paths: [in]}")
    assert (problem.code, problem.where) == ("not-text", "in/b.txt")
    assert "at byte" in problem.what


def test_a_line_that_is_too_long_is_named_and_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in/a.jsonl").write_bytes(rows(TEXTS[0], "water " * 2000, TEXTS[2]))
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 10_000)
    problem = refused()
    assert (problem.code, problem.where) == ("line-too-long", "in/a.jsonl:2")
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 12_100)
    assert clean()["documents"] == 3


@pytest.mark.parametrize("use", ["jsonl", "text"])
def test_a_document_that_is_too_long_is_named(use: str) -> None:
    long = "Zoë " * 2500  # 12,500 bytes
    Path("in/a.jsonl").write_bytes(rows(TEXTS[0], long))
    Path("in/a.txt").write_text(f"{TEXTS[0]}|{long}", encoding="utf-8")
    corpus = "{use: jsonl, paths: [in]}" if use == "jsonl" else "{use: text, paths: [in/a.txt], separator: '|'}"
    problem = refused(corpus, "longest_mb=0.0124")
    assert (problem.code, problem.where) == ("document-too-long", f"in/a.{'jsonl' if use == 'jsonl' else 'txt'}:2")
    assert "a document of 0.0125 MB, more than 0.0124" in problem.what


def zstandard(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("use", "suffix", "pack"),
    [("jsonl", "gz", gzip.compress), ("jsonl", "zst", zstandard), ("text", "xz", lzma.compress)],
)
def test_an_archive_that_is_cut_off_is_named(use: str, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    texts = [os.urandom(2000).hex() for _ in range(40)]
    Path("in/a.jsonl").write_bytes(rows(*TEXTS))
    Path(f"in/b.jsonl.{suffix}").write_bytes(pack(rows(*texts))[:-200])
    problem = refused(f"{{use: {use}, paths: [in]}}")
    assert (problem.code, problem.where) == ("damaged-file", f"in/b.jsonl.{suffix}")
    assert "it ends inside stream 1" in problem.what
    Path(f"in/b.jsonl.{suffix}").write_bytes(pack(rows(*texts)))
    clean()
    assert left() == [*TEXTS, *texts]


def test_a_line_without_the_field_is_named() -> None:
    Path("in/a.jsonl").write_bytes(rows(*TEXTS) + b'{"content": "a"}\n')
    problem = refused()
    assert (problem.code, problem.where) == ("unknown-field", "in/a.jsonl:4")


def test_a_column_that_a_file_does_not_have_is_named() -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, column in (("a", "text"), ("b", "texts")):
        parquet.write_table(pyarrow.table({column: TEXTS}), f"in/{name}.parquet")
    problem = refused("{use: parquet, paths: [in]}")
    assert (problem.code, problem.where, problem.fix) == ("unknown-field", "in/b.parquet", "did you mean 'texts'?")


@pytest.mark.parametrize(("size", "code"), [(2_000, "disk"), (4_000, "stage-failed")])
def test_a_full_disk_is_said_and_the_same_command_goes_on(size: int, code: str) -> None:
    """The corpus has shards of 2,700 bytes. A stage that makes the texts longer writes 6,000 of each."""
    Path("in/a.jsonl").write_bytes(rows(*(f"{number} " + "write to zoe@example.org " * 100 for number in range(3))))
    arguments = ("{use: jsonl, paths: [in]}", "shard_mb=0.00001")
    stage = f"{{use: masking, email: {'x' * 50}}}"
    with pytest.raises(ProblemError, match="File too large") as raised, file_size_limit(size):
        clean(*arguments, stage=stage)
    assert raised.value.problems[0].code == code
    assert not [path for path in Path("out").rglob("*") if "partial" in path.name or path.match("decisions/*/*")]
    clean(*arguments, stage=stage)
    assert left() == [f"{number} " + f"write to {'x' * 50} " * 100 for number in range(3)]
