"""Files are whole or absent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from penstock.conformance.full_disk import file_size_limit
from penstock.hooks.atomic import publish, read_json, replacing, write_bytes, write_json, write_text
from penstock.hooks.problems import ProblemError


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    write_text(path, "new \N{GREEK SMALL LETTER ALPHA}\n")
    assert path.read_bytes() == b"new \xce\xb1\n"
    assert os.listdir(tmp_path) == ["file"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ProblemError, match="pipe: not a regular file"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path):
    if os.fork() == 0:  # the child is killed while it writes
        with replacing(tmp_path / "file") as file:
            file.write(b"half of what was to come")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    assert len(os.listdir(tmp_path)) == 1
    write_text(tmp_path / "file", "whole")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "whole"


def test_json_is_read_back_as_it_was_written(tmp_path: Path):
    value = {"name": "run", "steps": [1, 2], "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_the_file_can_be_read_by_whom_the_umask_allows(tmp_path: Path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "file", "")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "file"
    write_text(path, "old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("existed", [False, True])
def test_a_full_disk_leaves_the_old_file_or_none(tmp_path: Path, existed: bool):
    path = tmp_path / "file"
    if existed:
        write_text(path, "old")
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        write_text(path, "x" * 5000)
    assert os.listdir(tmp_path) == (["file"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_a_published_folder_has_its_files_and_no_longer_its_old_name(tmp_path: Path):
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "file").write_text("content")
    publish(tmp_path / ".new", tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "content"
