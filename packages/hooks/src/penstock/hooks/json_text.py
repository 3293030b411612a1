"""JSON from outside: one parser, whose every refusal is a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Like `json.loads`, except that thousands of nested brackets are a ValueError too.

    >>> parse_json('{"k": [2]}')
    {'k': [2]}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deep") from None


def parse_strict_json(text: bytes) -> Any:
    """Like `parse_json`, for files whose every value counts: a name that an object has twice, a number that is not
    finite, and text that is not Unicode are ValueErrors too.

    >>> parse_strict_json(b'{"k": 2, "k": 3}')
    Traceback (most recent call last):
    ValueError: 'k' is there twice
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refused, parse_float=_finite
        )
        if b"\\ud" in text.lower():  # half of a surrogate pair is no text
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("its values are nested too deep") from None
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is beyond every number")
    return value
