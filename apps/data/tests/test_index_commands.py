"""`penstock data index`, through the command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ExitCode, ProblemError

RIVER = "The mill stands by the river and its wheel turns all day long while the miller sleeps in the sun"
ROWS = "{use: jsonl, paths: [rows.jsonl]}"


def index(*arguments: object) -> dict:
    return run(["data", "index", *map(str, arguments)])


def write_rows(count: int, path: str = "rows.jsonl") -> None:
    rows = [{"text": " ".join(f"word{number}of{place}" for place in range(60))} for number in range(count)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in [{"text": RIVER}, *rows]))


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of eleven documents in the folder `held`."""
    monkeypatch.chdir(tmp_path)
    write_rows(10)
    assert index("add", "held", ROWS)["new"] == 11
    return tmp_path / "held"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def asked(monkeypatch: pytest.MonkeyPatch, text: bytes) -> dict:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    return index("ask", "held", "-", "--json")


def test_what_is_added_is_found_until_it_is_removed(held, monkeypatch, capsys):
    capsys.readouterr()
    result = asked(monkeypatch, f"{RIVER}, he says".encode())
    assert json.loads(capsys.readouterr().out) == result
    (match,) = result["documents"][0]["repeats"]
    assert match["source"] == "rows.jsonl:1"
    assert match["jaccard"] == pytest.approx(16 / 18)
    assert index("remove", "held", "rows.jsonl:1", "rows.jsonl:99") == {"index": "held", "removed": 1, "documents": 10}
    assert asked(monkeypatch, RIVER.encode())["repeat"] == 0
    with pytest.raises(ProblemError, match="stdin: is not UTF-8"):
        asked(monkeypatch, b"\xff")


def test_a_corpus_repeats_the_index_but_no_document_itself(held, capsys):
    assert index("ask", "held", ROWS)["repeat"] == 0
    Path("copy.jsonl").write_text(Path("rows.jsonl").read_text())
    capsys.readouterr()
    result = index("ask", "held", "{use: jsonl, paths: [copy.jsonl]}", "--out", "found.jsonl")
    assert (result["asked"], result["repeat"]) == (11, 11)
    assert "11 of 11 documents repeat what the index holds" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert rows == result["documents"]
    assert rows[3] == {"source": "copy.jsonl:4", "repeats": [{"source": "rows.jsonl:4", "jaccard": 1.0}]}


def test_sources_are_removed_as_lines_of_stdin(held, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"rows.jsonl:2\nrows.jsonl:3\n")))
    assert index("remove", "held", "-")["removed"] == 2
    assert index("describe", "held")["removed"] == 2
    assert index("compact", "held")["removed"] == 0
    before = contents(held)
    index("compact", "held")
    assert contents(held) == before


def test_a_description_names_scheme_hash_rule_documents_and_bytes(held, capsys):
    result = index("describe", "held", "--check")
    assert result["bytes"] == sum(map(len, contents(held).values()))
    shown = capsys.readouterr().out
    for expected in ("11", "affine32", "xxh32", "5 words", "14 x 8", "3-nfkc-lower-space-single", "as it was written"):
        assert expected in shown


def test_an_index_of_another_scheme_is_refused_before_the_corpus_is_read(held, monkeypatch):
    before = contents(held)
    Path("rows.jsonl").write_text("no JSON")
    with pytest.raises(ProblemError, match="scheme affine32 instead of legacy") as raised:
        index("add", "held", ROWS, "--near", "{scheme: legacy}")
    assert raised.value.exit_code == ExitCode.USAGE
    with pytest.raises(ProblemError, match="is no mapping"):
        index("add", "held", ROWS, "--near", "legacy")
    assert contents(held) == before


def test_an_index_keeps_the_settings_that_it_was_begun_with(held):
    index("add", "other", ROWS, "--near", "{scheme: legacy, threshold: 0.6}")
    assert index("add", "other", ROWS)["known"] == 11
    settings = index("describe", "other")["settings"]
    assert (settings["scheme"], settings["threshold"]) == ("legacy", 0.6)


def test_an_index_whose_beginning_was_killed_is_begun_again(held):
    Path("begun").mkdir()
    for leftover in (".lock", ".index.json.partial"):
        Path("begun", leftover).write_text("{")
    index("add", "begun", ROWS)
    assert contents(Path("begun")) == contents(held)


def test_too_little_memory_is_refused_with_the_least_that_is_needed(held):
    for command in (("add", "held", ROWS), ("ask", "held", ROWS), ("remove", "held", "x"), ("compact", "held")):
        with pytest.raises(ProblemError, match="max_ram: a process needs at least 232 MB"):
            index(*command, "--max-ram", "231MB")
    with pytest.raises(click.BadParameter, match="'much' is not a size"):
        index("add", "held", ROWS, "--max-ram", "much")
    assert index("add", "held", ROWS, "--max-ram", "232MB")["known"] == 11


@pytest.mark.parametrize("command", [("ask", ROWS), ("remove", "x"), ("describe",), ("compact",), ("add", ROWS)])
def test_a_folder_that_is_no_index_is_said_and_left_as_it_was(held, command):
    Path("notes").mkdir()
    Path("notes", "mine.txt").write_text("mine")
    name, *rest = command
    with pytest.raises(ProblemError, match="notes: holds no index"):
        index(name, "notes", *rest)
    assert contents(Path("notes")) == {"mine.txt": b"mine"}


def test_a_shortened_file_is_said_and_once_it_is_back_work_goes_on(held):
    (path,) = held.glob("run-*/sets.values")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    for command in (("add", "held", ROWS), ("ask", "held", ROWS), ("describe", "held")):
        with pytest.raises(ProblemError, match=rf"sets\.values: {len(whole) - 1} bytes, not {len(whole)}") as raised:
            index(*command)
        assert raised.value.exit_code == ExitCode.FAILED
    path.write_bytes(whole)
    assert index("add", "held", ROWS)["known"] == 11


def test_a_full_disk_in_the_middle_is_said_and_the_same_command_goes_on(held):
    """The limit of a file's size stands for the disk: writing fails in the middle."""
    write_rows(120)
    before = contents(held)
    code = (
        "import resource, signal, sys; from penstock.cli.main import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)); main()"
    )
    command = [sys.executable, "-c", code, "data", "index", "add", "held", ROWS]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert full.returncode == ExitCode.FAILED
    assert "held: writing failed" in full.stderr
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    assert contents(held) == before
    assert index("add", "held", ROWS) == {"index": "held", "new": 110, "replaced": 0, "known": 11, "documents": 121}
