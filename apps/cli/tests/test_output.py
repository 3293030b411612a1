"""Results go to stdout as text or one JSON document; all else goes to stderr."""

from __future__ import annotations

import json

import click
import pytest

from penstock.cli import output
from penstock.hooks.problems import Problem, ProblemError


def test_a_result_is_json_or_text(capsys):
    output.print_result({"a": 1}, True, lambda: "never made")
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    output.print_result({"a": 1}, False, lambda: "a is 1")
    assert capsys.readouterr().out == "a is 1\n"


def test_notes_and_warnings_stay_out_of_stdout(capsys):
    output.note("good to know")
    output.warn("take care")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "good to know\nwarning: take care\n"


def test_control_characters_in_messages_are_spelled_out(capsys):
    problem = ProblemError(Problem("bad", "unknown format '\x1b[2J\x9b\u202e'", "line 1\n\t^", ""))
    output.print_problems(problem)
    output.note("a\rb")
    output.warn("a\x07b, not ü")
    shown = click.unstyle(capsys.readouterr().err)
    assert shown == ("error: line 1\n\t^: unknown format '\\x1b[2J\\x9b\\u202e'\na\\rb\nwarning: a\\x07b, not ü\n")


def test_tables_align_numbers_to_the_right():
    assert output.table(("name", "count"), [("a", "1,000"), ("bcd", "7")]).splitlines() == [
        "name  count",
        "----  -----",
        "a     1,000",
        "bcd       7",
    ]
    assert output.table(("name",), []).splitlines() == ["name", "----"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2e12, "2.0 TB"), (5e15, "5000.0 TB")]
)
def test_bytes_read_like_people_write_them(count, text):
    assert output.human_bytes(count) == text
