from __future__ import annotations

import json
import math
import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks.config import ConfigDocument, Location, dump_config, parse_config
from penstock.hooks.problems import ProblemError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.text(string.ascii_letters + string.digits + " -_:#{}[],.&*!|>'%@`~/", max_size=20)
NAMES = st.text(string.ascii_letters, min_size=1, max_size=6)
modest = settings(deadline=None, max_examples=50)


def mappings(keys: st.SearchStrategy[str], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Nested mappings and lists."""
    nested = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
    return st.dictionaries(keys, nested, max_size=4)


def scalar(text: str) -> Any:
    return parse_config(f"value: {text}").value["value"]


def problems(text: str) -> list[str]:
    with pytest.raises(ProblemError) as caught:
        parse_config(text, "run.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # the table of the core schema, YAML 1.2.2 section 10.3.2
        ("", None), ("~", None), ("null", None), ("Null", None), ("NULL", None),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
        ("0", 0), ("-19", -19), ("+3", 3), ("007", 7), ("0o7", 7), ("0o17", 15), ("0x3A", 58),
        ("0.", 0.0), (".5", 0.5), ("-0.0", -0.0), ("+12e03", 12000.0), ("-2E+05", -200000.0), ("1e-3", 0.001),
        ("12.5e1", 125.0), (".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf),
        # grouped digits, which the specification does not have
        ("2_000_000", 2_000_000), ("1_000.5", 1000.5),
        # what YAML 1.1 reads otherwise
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"), ("0b11", "0b11"), ("<<", "<<"), ("=", "="),
        # near misses stay text
        ("1e", "1e"), ("._", "._"), ("0x", "0x"), ("0o8", "0o8"), ("_1", "_1"), (".", "."),
        ("nUll", "nUll"), ("tRue", "tRue"), ("1.2.3", "1.2.3"), ("'1'", "1"), ('"true"', "true"),
        ("!!str 1", "1"), ("!!float 3", 3.0), ("!!int '3'", 3),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    read = scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(scalar(".nan"))


@modest
@given(mappings(PLAIN, st.none() | st.booleans() | NUMBERS | PLAIN))
def test_json_is_read_as_json_reads_it(value: dict[str, Any]) -> None:
    assert parse_config(json.dumps(value)).value == value


@modest
@given(mappings(st.text(), SCALARS))
def test_what_is_dumped_is_read_back(value: dict[str, Any]) -> None:
    assert parse_config(dump_config(value)).value == value


@pytest.mark.parametrize("text", ["1e-3", "no", "007", "0o7", ".inf", "1_0", "null", "", "2026-01-01", "a: b", "#x"])
def test_dumped_text_stays_text(text: str) -> None:
    assert parse_config(dump_config({"value": text})).value == {"value": text}


def test_repeated_values_are_dumped_in_full() -> None:
    shared = {"k": 2}
    assert dump_config({"a": shared, "b": shared}) == "a:\n  k: 2\nb:\n  k: 2\n"


@modest
@given(st.text() | st.text("ab:-[]{}#&*!'\"\n ?|>,0"))
def test_any_text_is_a_config_or_a_problem(text: str) -> None:
    codes: set[str] = set()
    try:
        parse_config(text)
    except ProblemError as error:
        codes = {problem.code if problem.where.startswith("config") else "no place" for problem in error.problems}
    assert codes <= {"bad-yaml", "duplicate-key"}


def nested(levels: int) -> str:
    return "a: " + "[" * levels + "]" * levels


def test_what_would_fill_memory_or_stack_is_refused_where_it_begins() -> None:
    aliases = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for letter, before in zip("bcdefghij", "abcdefghi", strict=True):
        aliases.append(f"{letter}: &{letter} [{', '.join([f'*{before}'] * 9)}]")
    (exploding,) = problems("\n".join(aliases))
    assert re.match(r"run.yaml:\d:\d+: has more than 200000 values, aliases", exploding)
    for deep in (nested(20_000), "a: " + "[" * 20_000, "\n".join(f"{' ' * level}a:" for level in range(300))):
        (problem,) = problems(deep)
        assert re.fullmatch(r"run.yaml:\d+:\d+: not valid YAML \(it is nested more than 100 levels deep\)", problem)
    chain = [f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 300)]
    (chained,) = problems("a0: &a0 [1]\n" + "\n".join(chain))
    assert "is nested more than 100 levels deep" in chained
    assert parse_config(nested(90)).value["a"]


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 5000, "0o" + "7" * 5000, "1_" * 1000 + "0" * 1000])
def test_a_huge_integer_is_refused_in_every_base(digits: str) -> None:
    (problem,) = problems(f"a: 1\nb: {digits}")
    assert problem.startswith("run.yaml:2:1: an integer of")


def test_aliases_stand_for_their_values() -> None:
    assert parse_config("a: &x {k: [1]}\nb: *x\nc: [*x, *x]").value["c"] == [{"k": [1]}] * 2


@modest
@given(mappings(NAMES, st.integers()))
def test_every_value_knows_the_place_where_it_stands(value: dict[str, Any]) -> None:
    text = dump_config(value)
    lines = text.splitlines()
    document = parse_config(text, "run.yaml")
    assert set(document.sources) == set(locations(value, ()))
    for location, source in document.sources.items():
        name, line, column = source.split(":")
        rest = lines[int(line) - 1][int(column) - 1 :] if lines else ""
        assert name == "run.yaml"
        if location and isinstance(location[-1], str):
            assert rest.lstrip("'").startswith(location[-1])
        elif location and isinstance(document.at(location), int):
            assert rest == str(document.at(location))


def locations(value: Any, at: Location) -> list[Location]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(found for key, item in items for found in locations(item, (*at, key)))]


def test_a_place_that_was_not_written_is_its_closest_surrounding() -> None:
    document = parse_config("model:\n  router:\n    k: 2\n", "run.yaml")
    assert document.where(("model", "router", "k")) == "run.yaml:3:5: model.router.k"
    assert document.where(("model", "router", "scale")) == "run.yaml:2:3: model.router.scale"
    assert document.where(("seed",)) == "run.yaml:1:1: seed"
    assert document.where(()) == "run.yaml:1:1"
    assert ConfigDocument({}, {}, "settings").where(("seed",)) == "seed"
    assert ConfigDocument({}, {}, "settings").where(()) == "settings"


def test_a_value_is_found_by_its_location() -> None:
    document = parse_config("a: [1, {b: 2}]")
    assert document.at(("a", 1, "b")) == 2
    assert document.at(("a", 2)) is None
    assert document.at(("a", "b", "c")) is None


@pytest.mark.parametrize("text", ["", "# nothing", "---", "~"])
def test_an_empty_file_is_an_empty_config(text: str) -> None:
    assert parse_config(text).value == {}


def test_keys_are_text_as_it_was_written() -> None:
    assert parse_config("1: a\ntrue: b\n~: c\n0x10: d").value == {"1": "a", "true": "b", "~": "c", "0x10": "d"}


def test_every_duplicate_key_is_reported_with_the_first() -> None:
    assert problems("a: 1\nb: {c: 1, c: 2}\na: 3\n") == [
        "run.yaml:2:11: duplicate key 'c', the first is at run.yaml:2:5",
        "run.yaml:3:1: duplicate key 'a', the first is at run.yaml:1:1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "run.yaml:1:6: not valid YAML (while parsing a flow sequence, expected ',' or ']', but got"),
        ("a: 1\n b: 2", "run.yaml:2:3: not valid YAML (mapping values are not allowed here)"),
        ("a: 1\n---\nb: 2", "run.yaml:2:1: not valid YAML (expected a single document"),
        ("a: *x", "run.yaml:1:4: not valid YAML (found undefined alias 'x')"),
        ("a: \0", "run.yaml: not valid YAML (unacceptable character"),
        ("- a", "run.yaml:1:1: a config is a mapping of keys to values"),
        ("word", "run.yaml:1:1: a config is a mapping of keys to values"),
        ("? [a]\n: 1", "run.yaml:1:3: a key must be plain text"),
        ("a: !!python/object:os.system {}", "run.yaml:1:1: unknown tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !secret b", "run.yaml:1:1: unknown tag '!secret'"),
        ("a: !!int b", "run.yaml:1:1: 'b' is not of type int"),
        (f"a: {'9' * 5000}", "run.yaml:1:1: an integer of 5000 digits"),
    ],
)
def test_what_is_no_config_says_where(text: str, message: str) -> None:
    [problem] = problems(text)
    assert problem.startswith(message)


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: *x}", "a: &x {b: [{c: *x}]}", "&x a: *x\nb: &y [*y]"])
def test_an_alias_inside_its_own_value_is_a_problem(text: str) -> None:
    if text.startswith("&x"):
        [problem] = problems(text)
        assert problem.startswith("run.yaml:2:")
    else:
        [problem] = problems(text)
    assert "an alias refers to a value that contains it" in problem


def test_an_alias_repeats_a_value_without_sharing_it() -> None:
    value = parse_config("a: &x {k: 2}\nb: *x\n").value
    assert value == {"a": {"k": 2}, "b": {"k": 2}}
    assert value["a"] is not value["b"]


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(ProblemError, match="config:1:1: the text has half a surrogate pair"):
        parse_config('prompt: "\\ud800"')
