"""Sections that break one law each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broken.described import described
from penstock.hooks.config import Schema


class Wheel(Schema):
    """A wheel."""

    speed: float = 1.0
    """Turns a second."""


class Required(Wheel):
    """A wheel of which every config must say something."""

    width: float
    """Metres."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"width": 2.0}


def factory(*, speed: float) -> Wheel:
    return Wheel(speed=speed)


WHEEL = "broken.section:Wheel"
of = described("section", "A section that breaks one law", config=WHEEL)
GOOD = of(WHEEL)
BROKEN = {
    "section/the-target-is-the-schema": of("broken.section:factory"),
    "section/the-name-is-an-attribute": of(WHEEL, name="water-wheel"),
    "section/it-may-be-left-out": of("broken.section:Required", config="broken.section:Required"),
}
