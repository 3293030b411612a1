"""A folder is whole or not there, and only our own work is replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.conformance.full_disk import file_size_limit
from penstock.hooks import ExitCode, ProblemError
from penstock.serve.folders import LISTING, replaced_folder


def export(folder: Path, **files: str | Callable[[], str]) -> None:
    """Writes each file; a text may be computed while exporting."""
    with replaced_folder(folder) as temporary:
        for name, text in files.items():
            (temporary / name).write_text(text() if callable(text) else text)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != LISTING}


@pytest.mark.parametrize("made", [False, True])
def test_a_missing_or_empty_folder_is_filled(tmp_path: Path, made: bool):
    folder = tmp_path / "deep" / "export"
    if made:
        folder.mkdir(parents=True)
    export(folder, a="1", b="2")
    assert contents(folder) == {"a": "1", "b": "2"}
    assert os.listdir(folder.parent) == ["export"]


def test_an_earlier_export_is_replaced_without_leftovers(tmp_path: Path):
    folder = tmp_path / "export"
    export(folder, a="1", b="2")
    export(folder, b="3")
    assert contents(folder) == {"b": "3"}
    assert os.listdir(tmp_path) == ["export"]


def test_the_folder_can_be_read_by_whom_the_umask_allows(tmp_path: Path):
    (tmp_path / "plain").mkdir()
    export(tmp_path / "export", a="1")
    assert (tmp_path / "export").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ProblemError, match=r"thesis\.tex"):
        export(tmp_path, a="1")
    assert contents(tmp_path) == {"thesis.tex": "years of work"}


def test_a_file_put_beside_an_export_stops_the_next_one(tmp_path: Path):
    folder = tmp_path / "export"
    export(folder, a="1")
    (folder / "adapter").write_text("mine")
    with pytest.raises(ProblemError, match="adapter"):
        export(folder, a="2")
    assert contents(folder) == {"a": "1", "adapter": "mine"}


def test_a_file_put_there_while_exporting_is_not_lost(tmp_path: Path):
    folder = tmp_path / "export"

    def interfere() -> str:
        folder.mkdir()
        (folder / "late").write_text("mine")
        return "1"

    with pytest.raises(ProblemError, match="late"):
        export(folder, a=interfere)
    assert contents(folder) == {"late": "mine"}


def test_a_damaged_listing_protects_the_folder(tmp_path: Path):
    folder = tmp_path / "export"
    export(folder, a="1")
    for damage in ("{", "[]", '{"format": 99, "files": ["a"]}'):
        (folder / LISTING).write_text(damage)
        with pytest.raises(ProblemError, match="no export wrote"):
            export(folder, a="2")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_export_leaves_the_earlier_one(tmp_path: Path, error: type[BaseException]):
    folder = tmp_path / "export"
    export(folder, a="1")

    def stop() -> str:
        raise error

    with pytest.raises(error):
        export(folder, a="2", b=stop)
    assert contents(folder) == {"a": "1"}
    assert os.listdir(tmp_path) == ["export"]


def test_a_full_disk_is_a_problem_and_leaves_the_earlier_export(tmp_path: Path):
    folder = tmp_path / "export"
    export(folder, a="1")
    with pytest.raises(ProblemError, match="writing failed") as caught, file_size_limit(100):
        export(folder, a="2" * 1000)
    assert caught.value.exit_code == ExitCode.FAILED
    assert contents(folder) == {"a": "1"}
    assert os.listdir(tmp_path) == ["export"]


def test_a_file_in_the_place_of_the_folder_is_a_problem(tmp_path: Path):
    (tmp_path / "export").write_text("a file")
    with pytest.raises(ProblemError, match="this is a file"):
        export(tmp_path / "export", a="1")
    with pytest.raises(ProblemError, match="writing failed"):
        export(tmp_path / "export" / "below", a="1")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    export(tmp_path / "link", a="1")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"a": "1"}
