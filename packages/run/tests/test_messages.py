"""Notes and warnings reach whoever listens, once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from penstock.hooks.problems import ProblemError, failed
from penstock.run import messages


def test_a_command_shows_notes_and_warnings_apart():
    notes: list[str] = []
    warnings: list[str] = []
    with messages.shown(notes.append, warnings.append):
        messages.note("100 % done")
        messages.warn("take care")
    messages.note("nobody listens any more")
    assert (notes, warnings) == (["100 % done"], ["take care"])


def test_what_a_command_inside_another_says_is_shown_once_by_the_outer_one():
    outer: list[str] = []
    inner: list[str] = []
    with messages.shown(outer.append, outer.append):
        with messages.shown(inner.append, inner.append):
            messages.note("inside")
        messages.note("outside")
    assert (outer, inner) == (["inside", "outside"], [])


def test_the_logger_is_left_as_it_was_found():
    logger = logging.getLogger(messages.LOGGER)
    before = (list(logger.handlers), logger.level)
    with messages.shown(print, print):
        pass
    assert (list(logger.handlers), logger.level) == before


def test_a_library_user_hears_warnings_through_logging(caplog):
    messages.warn("take care")
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("penstock", "WARNING", "take care")
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_hides_neither_messages_nor_the_error(tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank-0.log").symlink_to("/dev/full")
    said: list[str] = []

    def fails() -> None:
        with messages.kept(tmp_path / "logs" / "rank-0.log"):
            messages.note("step 1")
            raise failed("disk", "no space")

    with messages.shown(said.append, said.append), pytest.raises(ProblemError, match="no space"):
        fails()
    assert said == ["step 1"]
    assert capsys.readouterr().err == ""
