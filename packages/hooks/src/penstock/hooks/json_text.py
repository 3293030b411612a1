"""JSON from outside: one parser, whose every refusal is a ValueError."""

from __future__ import annotations

import json
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


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' occurs twice")
    return found
