"""JSON from outside is a value or a ValueError, nothing else."""

from __future__ import annotations

import json

import pytest

from penstock.hooks.json_text import parse_json, parse_strict_json

VALUE = {"name": "Größe 水 🜁", "numbers": [1, -2.5, 1e300, 2**63], "none": None, "deeper": {"name": "again"}}


@pytest.mark.parametrize("ascii", [True, False])
def test_sound_json_is_its_value(ascii: bool) -> None:
    text = json.dumps(VALUE, ensure_ascii=ascii).encode()
    assert parse_json(text) == parse_strict_json(text) == VALUE


@pytest.mark.parametrize("parse", [parse_json, parse_strict_json])
@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff", b"9" * 5000])
def test_what_is_no_json_is_a_value_error(parse, text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [b'{"a": 1, "a": 1}', b'[{"a": {"b": 1, "b": 2}}]', b"NaN", b"[-Infinity]", b"1e999", b'"\\ud800"', b'"\\uDC00x"'],
)
def test_the_strict_reader_takes_no_value_that_can_be_misread(text: bytes) -> None:
    assert parse_json(text) is not ...
    with pytest.raises(ValueError, match=r"\w"):
        parse_strict_json(text)
