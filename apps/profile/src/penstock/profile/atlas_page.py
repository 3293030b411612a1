"""The page of any trace: heat maps of load, of domain preferences, and of experts that work together.

Shape suffixes: M domains, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.pages import heat_maps
from penstock.pages.page import write_page
from penstock.profile.atlas import (
    HEADINGS,
    PREFERENCES,
    Tables,
    k_of,
    layer_line,
    preference_caption,
    preference_lines,
    verdicts,
)
from penstock.run.records.profile import Atlas, Profile
from penstock.traces import specialisation as figures

TEMPLATE = Path(__file__).with_name("atlas.html.j2")

MOST_MAPS = 8
"""Most layers whose preferences and pairs are drawn, evenly spaced, so that a page of a deep model stays small."""


@dataclass(frozen=True, slots=True)
class Map:
    """A heat map with rows from `first` to `last` and columns from `left` to `right`."""

    title: str
    first: str
    last: str
    left: str
    right: str
    image: str


Texts = tuple[str, str, str, str, str]
"""The texts of a `Map`, in the order of its fields."""


@dataclass(frozen=True, slots=True)
class MapCard:
    title: str
    unit: str
    limit: str
    maps: Sequence[Map]
    caption: str


@dataclass(frozen=True, slots=True)
class ModelView:
    name: str
    summary: str
    cards: Sequence[MapCard]
    rows: Sequence[tuple[str, ...]]
    verdicts: Sequence[str]
    preferences: Sequence[tuple[str, ...]]
    preference_caption: str


def write_atlas(title: str, tables: Mapping[str, Tables], result: Atlas, out: Path) -> Path:
    """Atomically writes the page of `atlas(tables)`."""
    views = [
        ModelView(
            model.model,
            f"{model.assignments:,} assignments, {each.trace.counts_SLE.shape[2]} experts in "
            f"{each.trace.counts_SLE.shape[1]} layers"
            + (f", domains {', '.join(model.domains)}" if model.domains else "")
            + _text_read(model),
            cards_of(each),
            [layer_line(layer) for layer in model.layers],
            verdicts(model),
            preference_lines(model.layers),
            preference_caption(model.layers),
        )
        for model, each in zip(result.models, tables.values(), strict=True)
    ]
    return write_page(TEMPLATE, out, title=title, views=views, columns=HEADINGS, of_domains=PREFERENCES)


def _text_read(model: Profile) -> str:
    """How many tokens of which text, if a model read text."""
    if model.tokens is None:
        return ""
    return f", {model.tokens:,} tokens of {'held-out text' if model.split == 'heldout' else 'the given text'}"


def cards_of(tables: Tables) -> list[MapCard]:
    """Load of all layers; preferences if domains are known; pairs if each token's experts are known."""
    trace, names = tables.trace, tables.domains
    layers = [str(layer) for layer in tables.layers]
    shown = sorted({round(row) for row in np.linspace(0, len(layers) - 1, min(len(layers), MOST_MAPS))})
    load_LE = trace.counts_LE / np.maximum(trace.counts_LE.mean(axis=1, keepdims=True), 1)
    last = str(trace.counts_SLE.shape[2] - 1)
    whole = ("", f"layer {layers[0]}", layers[-1], "expert 0", last)
    caption = "Each row is a layer. Orange experts have more than an even share, blue ones less."
    cards = [_card("Load", "relative to an even share", [(whole, load_LE)], caption)]
    if names:
        maps = [
            (
                (f"Layer {layers[row]}", names[0], names[-1], "expert 0", last),
                figures.preference(tables.count_MLE[:, row], k_of(trace, row)).lift_ME,
            )
            for row in shown
        ]
        caption = f"Each row is a domain ({', '.join(names)}): the share of its tokens, relative to the uniform k / E."
        cards.append(_card("Domain preferences", "relative to uniform", maps, caption))
    maps = [
        (
            (f"Layers {layers[row]} and {layers[row + 1]}", "0", last, "expert 0", last),
            figures.dependence_lift(count_EE),
        )
        for row, count_EE in enumerate(tables.pair_PEE)
    ]
    if maps:
        caption = "Each row is an expert of the first layer, each column one of the second. Orange pairs share tokens."
        cards.append(_card("Experts across layers", "relative to chance", maps, caption))
    if tables.both_LEE is not None:
        maps = [
            ((f"Layer {layers[row]}", "0", last, "expert 0", last), figures.coactivation_lift(tables.both_LEE[row]))
            for row in shown
        ]
        caption = "Orange pairs share tokens more often than their frequencies explain, blue pairs less often."
        cards.append(_card("Experts of the same token", "relative to chance", maps, caption))
    return cards


def _card(title: str, unit: str, maps: Sequence[tuple[Texts, np.ndarray]], caption: str) -> MapCard:
    limit = heat_maps.heat_limit(np.concatenate([ratio.ravel() for _, ratio in maps]))
    drawn = [Map(*texts, heat_maps.heat_image(ratio, limit, rows=240, columns=480)) for texts, ratio in maps]
    return MapCard(title, unit, f"{limit:g}", drawn, caption)
