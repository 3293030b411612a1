"""A chart on a page, with the text around it."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.pages.drawing import Chart


@dataclass(frozen=True, slots=True)
class Card:
    """A chart with its title, unit and caption."""

    title: str
    unit: str
    chart: Chart
    caption: str
