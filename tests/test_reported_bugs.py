"""The page of bugs that others reported names laws and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from penstock.conformance import laws_of

ROOT = Path(__file__).parents[1]
ROWS = [
    line.strip("|\n ").split(" | ")
    for line in (ROOT / "apps" / "train" / "docs" / "reported-bugs.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| reported in")
]


def exists(name: str) -> bool:
    """Whether `PATH::TEST` is a function of a file, or `KIND/LAW` a law of the kit."""
    path, colons, test = name.partition("::")
    if not colons:
        return name in {law.id for law in laws_of(name.partition("/")[0])}
    tree = ast.parse((ROOT / path).read_text())
    return any(isinstance(each, ast.FunctionDef) and each.name == test for each in tree.body)


@pytest.mark.parametrize("row", ROWS, ids=[row[0].replace("/", "-") for row in ROWS])
def test_what_holds_a_reported_bug_off_exists(row: list[str]) -> None:
    _, _, held_by = row
    names = [name for name in re.findall(r"`([^`]+)`", held_by) if "::" in name or "/" in name]
    assert [name for name in names if not exists(name)] == []
    assert names or "no engine" in held_by or "does not go on" in held_by


def test_a_name_that_does_not_exist_is_found() -> None:
    assert not exists("engine/no-such-law")
    assert not exists("tests/test_ranks.py::test_nothing")
