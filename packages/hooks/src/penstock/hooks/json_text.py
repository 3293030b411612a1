"""JSON from outside: one parser, whose every refusal is a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any


def parse_json(text: str | bytes, *, distinct: bool = False) -> Any:
    """Like `json.loads`, except that thousands of nested brackets are a ValueError too, and, if `distinct`, an object
    with two equal keys, of which Python would keep the last.

    >>> parse_json('{"k": [2]}')
    {'k': [2]}
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct if distinct else None)
    except RecursionError:
        raise ValueError("its values are nested too deep") from None


def parse_strict_json(text: bytes) -> Any:
    """Like `parse_json` with `distinct`, for files whose every value counts: a number that is not finite, and text that
    is not Unicode, are ValueErrors too.

    >>> parse_strict_json(b'{"k": 1e999}')
    Traceback (most recent call last):
    ValueError: 1e999 is beyond every number
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refused, parse_float=_finite
        )
        if b"\\ud" in text.lower():  # half of a surrogate pair is no text
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("its values are nested too deep") from None
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' occurs twice")
        found[key] = value
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is beyond every number")
    return value
