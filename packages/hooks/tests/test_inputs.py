"""A setting that names a file to read says so, and whether the file is there is found in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.hooks.component import Component
from penstock.hooks.discovery import Origin
from penstock.hooks.inputs import InputPath, InputPattern, expanded, inputs_of, missing_inputs
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Choice, Entry
from penstock.hooks.schema import Schema


class Reader(Schema):
    file: InputPath | None = None
    files: tuple[InputPath, ...] = ()
    patterns: list[InputPattern] = []
    by_name: dict[str, InputPath] = {}
    output: Path = Path("written.txt")
    name: str = "no-file"


class Outer(Schema):
    reader: Reader = Reader()
    readers: list[Reader] = []


def test_marked_paths_are_found_in_lists_mappings_and_schemas_below():
    reader = Reader(file=Path("a"), files=(Path("b"),), patterns=["c", "*.d"], by_name={"key": Path("e")})
    found = dict(inputs_of(Outer(reader=reader, readers=[Reader(), Reader(file=Path("f"))])))
    assert found == {
        ("reader", "file"): "a",
        ("reader", "files", 0): "b",
        ("reader", "patterns", 0): "c",
        ("reader", "patterns", 1): "*.d",
        ("reader", "by_name", "key"): "e",
        ("readers", 1, "file"): "f",
    }


def test_the_settings_of_components_are_searched_too():
    component = Component(kind="task", name="reader", target="a:b", config="a:C", summary="Reads.")
    choice = Choice(Entry(component, Origin("plugin", "1.0", "plugin")), Reader(file=Path("a")))
    assert list(inputs_of({"tasks": [choice]})) == [(("tasks", 0, "file"), "a")]


def test_what_is_there_is_not_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("text")
    here = str(tmp_path / "a.txt")
    assert not list(
        missing_inputs(Reader(file=Path("~/a.txt"), files=(tmp_path,), patterns=[here, f"{tmp_path}/*.txt"]))
    )


@pytest.mark.parametrize("path", ["gone.txt", "~nobody-of-this-name/a.txt", "gone/*.txt", "a\0b", "x" * 5000])
def test_what_is_not_there_is_named_with_its_setting(path):
    [(at, problem)] = missing_inputs(Reader(patterns=[path]))
    assert (at, problem.where, problem.code) == (("patterns", 0), "patterns.0", "missing-file")
    assert path in problem.what


def test_the_home_of_an_unknown_user_is_a_problem():
    with pytest.raises(ProblemError, match="~nobody-of-this-name"):
        expanded("~nobody-of-this-name/a.txt")
