"""The page of `penstock data report`: what each stage removed, by rule and source, and examples side by side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes

from penstock.data.picture import LanguageCounts, Picture, SourceCounts, picture_of
from penstock.data_prep.cleaning.clean import Cleaned
from penstock.data_prep.cleaning.cleaned import Kept, without_undone
from penstock.pages import drawing
from penstock.pages.card import Card
from penstock.pages.drawing import Chart, Key, Size, draw, frame
from penstock.pages.formats import count, percent, size
from penstock.pages.page import write_page

TEMPLATE = Path(__file__).with_name("data.html.j2")
SOURCES = 20
"""Sources with a row of their own, those with the most documents."""
LANGUAGES = 11
"""Languages with a bar of their own."""
BAR = 34
"""Pixels of a bar with the name above it."""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """How often a rule of a stage decided."""

    stage: str
    rule: str
    documents: int
    share: str


@dataclass(frozen=True, slots=True)
class SourceRow:
    """Documents of a source, how many are left after each stage, and their share in the end."""

    source: str
    documents: int
    after: list[int]
    share: str


def write_data_page(cleaned: Cleaned, out: Path) -> Path:
    """Atomically writes the page to `out`, and returns `out`."""
    picture = picture_of(cleaned)
    kept = without_undone(cleaned.folder, cleaned.stages)
    cleaned = replace(cleaned, stages=kept.stages)
    stages = [stage.name for stage, _ in cleaned.stages]
    shares = [percent(_share(counts.removed, counts.documents)) for _, counts in cleaned.stages]
    return write_page(
        TEMPLATE,
        out,
        name=cleaned.folder.name,
        summary=_summary(cleaned, kept),
        cards=list(_cards(cleaned, picture)),
        stages=[(stage.name, counts, share) for (stage, counts), share in zip(cleaned.stages, shares, strict=True)],
        told=[
            f"{stage.name}: {number:,} {what}"
            for stage, counts in cleaned.stages
            for what, number in sorted(counts.told.items())
        ],
        rules=_rule_rows(cleaned),
        sources=_source_rows(picture.sources, stages),
        after=[_short(stage) for stage in stages],
        pairs=picture.pairs,
        size=size,
    )


def _summary(cleaned: Cleaned, kept: Kept) -> str:
    unjudged = f"; later stages never judged {kept.unjudged:,} of these" if kept.unjudged else ""
    back = f" {kept.back:,} were taken back{unjudged}." if kept.back else ""
    return (
        f"{cleaned.left:,} of {cleaned.documents:,} documents are left "
        f"({percent(_share(cleaned.left, cleaned.documents))}).{back} "
        f"The folder still has every document, {size(cleaned.bytes)} of text."
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _cards(cleaned: Cleaned, picture: Picture) -> list[Card]:
    left, remaining, removed = [("corpus", (cleaned.documents,))], cleaned.documents, picture.removed
    for stage, _ in cleaned.stages:
        remaining -= removed[stage.name]
        left.append((_short(stage.name), (remaining,)))
    cards = [Card("Documents left", "after each stage", _bars("left", left), "")]
    lengths = sorted(picture.before | picture.after)
    chart = _lengths(picture.before, picture.after, lengths)
    cards.append(Card("Length", "characters, documents of each power of two", chart, ""))
    if picture.clusters:
        sizes = Counter[int]()
        for repeats, number in picture.clusters.items():
            sizes[(repeats + 1).bit_length() - 1] += number
        named = [(f"{2**power} to {2 ** (power + 1) - 1} documents", (sizes[power],)) for power in sorted(sizes)]
        caption = "How many documents a kept one stands for, itself included."
        cards.append(Card("Clusters", "clusters of each size", _bars("clusters", named), caption))
    return [*cards, *(_languages(stage, counts) for stage, counts in picture.languages.items())]


def _short(stage: str) -> str:
    """The name of a stage without its hash."""
    return stage.rpartition("-")[0]


def _languages(stage: str, counts: LanguageCounts) -> Card:
    """The most frequent languages that a stage found, and all others together."""
    ranked = sorted(counts.came, key=lambda name: (-counts.came[name], name))
    rows = [(name, (counts.left[name], counts.came[name] - counts.left[name])) for name in ranked[:LANGUAGES]]
    if others := ranked[LANGUAGES:]:
        left, came = (sum(each[name] for name in others) for each in (counts.left, counts.came))
        rows.append((f"{len(others):,} others", (left, came - left)))
    keys = (Key("left after all stages", 1), Key("removed, by whichever stage", 2))
    caption = f"Of the {counts.came.total():,} documents that came to the stage {_short(stage)}, as it found them."
    return Card("Languages", "documents", _bars(f"languages {stage}", rows, keys), caption)


def _bars(name: str, values: list[tuple[str, tuple[int, ...]]], keys: tuple[Key, ...] = ()) -> Chart:
    """A bar for each value, of parts behind one another, with its name above and the sum at its end."""

    def plot(axes: Axes, size: Size) -> None:
        frame(axes, size, "")
        most = max(sum(parts) for _, parts in values)
        for place, (label, parts) in enumerate(reversed(values)):
            end = 0
            for color, part in zip(drawing.SERIES, parts, strict=False):
                axes.barh(place, part, left=end, color=color, height=0.34)
                end += part
            axes.annotate(label, (0, place + 0.2), xytext=(0, 2), textcoords="offset points", va="bottom")
            axes.annotate(count(end), (end, place), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_xlim(0, most * 1.08 or 1)
        axes.set_ylim(-0.5, len(values) - 0.1)
        axes.set_axis_off()

    wide, narrow = ((width, max(height, BAR * len(values) + 50)) for width, height in (drawing.HALF, drawing.NARROW))
    return draw(plot, name, keys, wide, narrow)


def _lengths(before: Counter[int], after: Counter[int], powers: list[int]) -> Chart:
    """Two bars for each power of two: before and after."""

    def plot(axes: Axes, size: Size) -> None:
        for index, counts in enumerate((before, after)):
            places = [place + 0.4 * index for place in range(len(powers))]
            axes.bar(places, [counts[power] for power in powers], width=0.38, color=drawing.SERIES[index])
        frame(axes, size, "characters")
        every = 2 if len(powers) > 8 else 1
        labels = [count(2**power if power >= 0 else 0) for power in powers]
        axes.set_xticks([place + 0.2 for place in range(len(powers))][::every], labels[::every])

    keys = (Key("corpus", 1), Key("left", 2))
    return draw(plot, "lengths", keys, drawing.HALF)


def _rule_rows(cleaned: Cleaned) -> list[RuleRow]:
    return [
        RuleRow(stage.name, rule, number, percent(_share(number, counts.documents)))
        for stage, counts in cleaned.stages
        for rule, number in sorted(counts.rules.items(), key=lambda each: (-each[1], each[0]))
    ]


def _source_rows(sources: dict[str, SourceCounts], stages: list[str]) -> list[SourceRow]:
    ranked = sorted(sources.items(), key=lambda each: (-each[1].documents, each[0]))
    rows = [_source_row(name, counts, stages) for name, counts in ranked[:SOURCES]]
    if others := ranked[SOURCES:]:
        rest = SourceCounts()
        for _, counts in others:
            rest.documents += counts.documents
            rest.left += counts.left
            rest.removed += counts.removed
        rows.append(_source_row(f"{len(others):,} others", rest, stages))
    return rows


def _source_row(name: str, counts: SourceCounts, stages: list[str]) -> SourceRow:
    removed = accumulate(counts.removed[stage] for stage in stages)
    after = [counts.documents - each for each in removed]
    return SourceRow(name, counts.documents, after, percent(_share(counts.left, counts.documents)))
