"""JSON from outside: one parser, whose every refusal is a ValueError."""

from __future__ import annotations

import json
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
