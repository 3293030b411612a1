"""What goes wrong with a file: bytes flipped, cut, inserted, swapped; numbers changed; parts of JSON replaced.

Every mutation is a function of a `random.Random`, so a number names it for ever.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = [b"0", b"-1", b"1", b"1.5", b"1e999", b"-1e-999", b"255", b"65536", b"2147483648", b"18446744073709551616"]
NUMBERS += [b"9" * 400, b"9" * 5000, b"NaN", b"-Infinity", b"0x7f", b"1_000", b"true", b'"1"']
VALUES: list[Any] = [None, True, False, 0, -1, 1, 1.5, 1e308, 2**31, 2**63, 2**64, 10**300, float("nan"), float("inf")]
VALUES += ["", "x", "1", "\ud800", "\0", "../up", "a" * 10_000, [], {}, [[]], [None], {"": 0}, [1] * 300]


def flip(rng: random.Random, data: bytes) -> bytes:
    """One to four bytes, by a bit or altogether."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(data))] ^= rng.choice((1 << rng.randrange(8), rng.randint(1, 255)))
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] if rng.random() < 0.5 else data[:start] + data[start + rng.randint(1, 64) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randint(0, len(data)), rng.randint(1, 64)
    kinds = (rng.randbytes(length), bytes(length), b"\xff" * length, data[:length], b"\n", b"\r\n", b"\xef\xbb\xbf")
    return data[:start] + rng.choice(kinds) + data[start:]


def swap(rng: random.Random, data: bytes) -> bytes:
    """Two neighbouring blocks change places, or one is written over another."""
    length = rng.randint(1, max(1, len(data) // 4))
    first, second = sorted(rng.randint(0, len(data)) for _ in range(2))
    one, other = data[first : first + length], data[second : second + length]
    if rng.random() < 0.5 or second < first + length:
        return data[:second] + one + data[second + length :]
    return data[:first] + other + data[first + length : second] + one + data[second + length :]


def renumber(rng: random.Random, data: bytes) -> bytes:
    """A number that is written in digits; in a file without any, four or eight bytes that may be one."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", data))
    if found:
        number = rng.choice(found)
        return data[: number.start()] + rng.choice(NUMBERS) + data[number.end() :]
    width = rng.choice((4, 8))
    value = rng.choice((0, 1, -1, 2**31 - 1, -(2**31), rng.randint(-(2**31), 2**31 - 1)))
    start = rng.randrange(max(1, len(data) - width))
    return data[:start] + value.to_bytes(width, "little", signed=True) + data[start + width :]


def restructure(rng: random.Random, data: bytes) -> bytes:
    """Something inside the JSON, or inside one of its lines, is replaced, removed, renamed, repeated or wrapped."""
    lines = data.split(b"\n")
    whole = _parsed(data)
    if whole is not _NOT_JSON:
        return _written(_changed(rng, whole))
    number = rng.choice([index for index, line in enumerate(lines) if line.strip()] or [0])
    value = _parsed(lines[number])
    if value is _NOT_JSON:
        return flip(rng, data)
    lines[number] = _written(_changed(rng, value))
    return b"\n".join(lines)


def deepen(rng: random.Random, data: bytes) -> bytes:
    """Thousands of brackets where a number was."""
    depth = rng.choice((90, 1000, 20_000))
    found = list(re.finditer(rb"\d+", data))
    start, end = rng.choice([match.span() for match in found] or [(0, 0)])
    return data[:start] + b"[" * depth + b"]" * (depth - rng.randint(0, 1)) + data[end:]


BINARY: tuple[Mutation, ...] = (flip, flip, cut, insert, swap, renumber)
JSON: tuple[Mutation, ...] = (flip, cut, insert, swap, renumber, renumber, *[restructure] * 5)
TEXT: tuple[Mutation, ...] = (flip, flip, cut, insert, swap, renumber, renumber)

_NOT_JSON = object()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return _NOT_JSON


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, inner in items for place in _places(inner, (*at, key)))]


def _changed(rng: random.Random, value: Any) -> Any:
    places = _places(value)
    # Few values are many bytes: a place near the top is as likely as one of the thousands below it.
    depth = rng.choice(sorted({len(place) for place in places}))
    place = rng.choice([place for place in places if len(place) == depth])
    return _replaced(rng, value, place, value)


def _replaced(rng: random.Random, value: Any, place: tuple[Any, ...], whole: Any) -> Any:
    if not place:
        return _other(rng, value, whole)
    key, *rest = place
    action = rng.random() if not rest else 1.0
    if isinstance(value, dict):
        if action < 0.2:
            return {name: inner for name, inner in value.items() if name != key}
        if action < 0.3:
            return {f"{name}x" if name == key else name: inner for name, inner in value.items()}
        return value | {key: _replaced(rng, value[key], tuple(rest), whole)}
    if action < 0.2:
        return value[:key] + value[key + 1 :]
    if action < 0.3:
        return value[:key] + [value[key]] * rng.choice((2, 50)) + value[key + 1 :]
    return [*value[:key], _replaced(rng, value[key], tuple(rest), whole), *value[key + 1 :]]


def _other(rng: random.Random, value: Any, whole: Any) -> Any:
    choice = rng.random()
    if choice < 0.7:
        return rng.choice(VALUES)
    if choice < 0.8:
        return [value]
    if choice < 0.9 and isinstance(value, int | float):
        return value + rng.choice((-1, 1, 0.5))
    places = _places(whole)
    found = whole
    for key in rng.choice(places):
        found = found[key]
    return found
