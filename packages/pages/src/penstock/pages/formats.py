"""Numbers and names as people read them: three digits, a unit, and a dash if nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

DASH = "\u2014"
TIMES = "\u00d7"
NO_BREAK = "\u00a0"
"""No-break space between a number and its unit."""
SCALES = ((1e12, "\u00a0T"), (1e9, "\u00a0B"), (1e6, "\u00a0M"), (1e3, "\u00a0k"))
_BYTES = ((1e12, "\u00a0TB"), (1e9, "\u00a0GB"), (1e6, "\u00a0MB"), (1e3, "\u00a0kB"))


def number(value: float | None) -> str:
    """Three significant digits without an exponent if that stays readable.

    >>> number(0.12345), number(0.02), number(1234.5), number(2.0), number(0.9999), number(3e-7), number(None) == DASH
    ('0.123', '0.02', '1,234', '2.00', '1.00', '3e-07', True)
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "\u221e" if value > 0 else "-\u221e"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e7 or size < 1e-4:
        return f"{value:.3g}"
    if size >= 100:
        return f"{value:,.0f}"
    text = _digits(value)
    return text.rstrip("0") if abs(float(text)) < 1 else text


def listed(values: Iterable[object]) -> str:
    """
    >>> listed([0]), listed([0, 1]), listed([0, 1, 2])
    ('0', '0 and 1', '0, 1 and 2')
    """
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def decimals(value: float | None) -> str:
    """Three decimals, for columns of a table.

    >>> decimals(1.3), decimals(0.04)
    ('1.300', '0.040')
    """
    return number(value) if value is None or not math.isfinite(value) else f"{value:,.3f}"


class Bounds(Protocol):
    """An interval of a figure."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


def digits_for(half_width: float) -> int:
    """Decimals that a value deserves: those that show its interval's half width with two digits, at most six.

    >>> digits_for(0.0132), digits_for(22.8)
    (3, 0)
    """
    if not math.isfinite(half_width) or half_width <= 0:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(half_width))))


def rounded(values: Sequence[float | None], bounds: Bounds | None) -> tuple[str, ...]:
    """Values with the digits that an interval leaves them; three decimals without one.

    >>> from types import SimpleNamespace
    >>> rounded([32.7559, 17.297], SimpleNamespace(low=17.297, high=58.423)), rounded([0.375], None)
    (('33', '17'), ('0.375',))
    """
    digits = 3 if bounds is None else digits_for((bounds.high - bounds.low) / 2)
    return tuple(
        number(value) if value is None or not math.isfinite(value) else f"{value:,.{digits}f}" for value in values
    )


def count(value: float | None) -> str:
    """A count: exact below ten thousand, then three digits and a scale.

    >>> count(512), count(8192), count(2_000_000), count(999_999)
    ('512', '8,192', '2.00\\xa0M', '1.00\\xa0M')
    """
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:,.0f}" if abs(value) < 1e4 else _scaled(value, SCALES)


def size(value: float | None) -> str:
    """Bytes in decimal units.

    >>> size(123_456_789)
    '123\\xa0MB'
    """
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:,.0f}{NO_BREAK}B" if abs(value) < 1e3 else _scaled(value, _BYTES)


def duration(value: float | None) -> str:
    """Seconds, in the unit a person would say.

    >>> [duration(seconds).replace(NO_BREAK, " ") for seconds in (0.25, 12.34, 252, 11_100, 200_000)]
    ['250 ms', '12.3 s', '4 min 12 s', '3 h 05 min', '2 d 7 h']
    """
    if value is None or not math.isfinite(value):
        return number(value)
    if value == 0:
        return f"0{NO_BREAK}s"
    if value < 0.9995e-3:
        return f"{_digits(value * 1e6)}{NO_BREAK}\u00b5s"
    if value < 0.9995:
        return f"{_digits(value * 1e3)}{NO_BREAK}ms"
    if value < 59.95:
        return f"{_digits(value)}{NO_BREAK}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}{NO_BREAK}min {whole % 60:02d}{NO_BREAK}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}{NO_BREAK}h {whole % 3600 // 60:02d}{NO_BREAK}min"
    return f"{whole // 86400}{NO_BREAK}d {whole % 86400 // 3600}{NO_BREAK}h"


def percent(share: float) -> str:
    """A share as a percentage, with a decimal only below ten.

    >>> percent(0.271), percent(0.0271), percent(1.0)
    ('27\\xa0%', '2.7\\xa0%', '100\\xa0%')
    """
    if not math.isfinite(share):
        return DASH
    return f"{share * 100:.0f}{NO_BREAK}%" if abs(share) >= 0.0995 or share == 0 else f"{share * 100:.1f}{NO_BREAK}%"


def times(ratio: float | None) -> str:
    """A ratio with its sign.

    >>> times(1.319) == "1.32" + TIMES
    True
    """
    return DASH if ratio is None or math.isnan(ratio) else f"{number(ratio)}{TIMES}"


def readable(text: str) -> str:
    """Text that can be encoded and shown: control characters and lone surrogates become the replacement character.

    >>> readable("a\\x1b[0m\\ud800\\n") == "a\\ufffd[0m\\ufffd\\n"
    True
    """
    return "".join(
        "\ufffd"
        if (ord(character) < 32 and character not in "\n\t")
        or 0x7F <= ord(character) < 0xA0
        or 0xD800 <= ord(character) < 0xE000
        else character
        for character in text
    )


def _scaled(value: float, scales: tuple[tuple[float, str], ...]) -> str:
    for scale, suffix in scales:
        if abs(value) >= scale * 0.9995:
            return f"{_digits(value / scale)}{suffix}"
    return _digits(value)


def _digits(value: float) -> str:
    """Three significant digits. The magnitude is taken after rounding, or 0.9999 would show as 1.000."""
    if not value:
        return "0"
    magnitude = math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{value:.{max(0, 2 - magnitude)}f}"
