"""The figures of any trace, and its page: load, the preferences of domains, and which experts work together.

Shape suffixes: M domains, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.evaluate import specialisation as figures
from penstock.evaluate.report import charts
from penstock.evaluate.report.formats import decimals
from penstock.evaluate.report.page import write_page
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.trace import RoutingTrace
from penstock.routers import load

NAMES = ("max_violation", "max_over_mean", "max_over_min", "gini", "cv", "variance", "entropy", "dead_experts")
HEADINGS = ("layer", "MaxVio", "max/mean", "max/min", "Gini", "CV", "variance", "entropy", "dead", "bits of domain")
MOST_MAPS = 8
"""Layers whose preferences and pairs are drawn, evenly taken from all, so that a page of a deep model stays light."""


def load_figures(trace: RoutingTrace) -> list[dict[str, Any]]:
    """For each layer what `profile.json` says of its load; with domains or choices also what these tell."""
    counts_LE = torch.from_numpy(trace.counts_LE)
    metrics = {
        "max_violation": load.max_violation(counts_LE),
        "gini": load.gini(counts_LE),
        "entropy": load.entropy(counts_LE),
        "cv": load.coefficient_of_variation(counts_LE),
        "dead_experts": load.dead_experts(counts_LE),
    }
    layers = trace.header.get("layers", range(len(counts_LE)))
    return [
        {
            "layer": layer,
            **{name: value[row].item() for name, value in metrics.items()},
            **figures.spread(trace.counts_LE[row]),
            **_of_domains(trace, row),
            "counts": counts_LE[row].tolist(),
        }
        for row, layer in enumerate(layers)
    ]


def _of_domains(trace: RoutingTrace, row: int) -> dict[str, Any]:
    domains = domain_counts(trace)
    if domains is None:
        return {}
    count_ME = domains[1][:, row]
    found = figures.preference(count_ME, k_of(trace, row))
    return {
        "specialisation": {
            **figures.specialisation(count_ME),
            "domains": {
                name: {
                    "prefers": np.flatnonzero(found.above_ME[index]).tolist(),
                    "avoids": np.flatnonzero(found.below_ME[index]).tolist(),
                    "share": found.share_ME[index].tolist(),
                    "low": found.low_ME[index].tolist(),
                    "high": found.high_ME[index].tolist(),
                    "uniform": found.uniform,
                }
                for index, name in enumerate(domains[0])
            },
        }
    }


def domain_counts(trace: RoutingTrace) -> tuple[list[str], np.ndarray] | None:
    """The names of the domains and `count_MLE`, where the header's `domains` names one for each step."""
    labels = trace.header.get("domains")
    if not labels:
        return None
    if len(labels) != len(trace.counts_SLE):
        what = f"its header names the domains of {len(labels)} steps, and it has {len(trace.counts_SLE)}"
        raise ProblemError(Problem("bad-trace", what, "trace", "name one domain a step"))
    names = list(dict.fromkeys(labels))
    count_MLE = np.zeros((len(names), *trace.counts_SLE.shape[1:]), dtype=np.int64)
    np.add.at(count_MLE, [names.index(label) for label in labels], trace.counts_SLE)
    for row in range(trace.counts_SLE.shape[1]):
        if (count_MLE[:, row].max(axis=1) * k_of(trace, row) > count_MLE[:, row].sum(axis=1)).any():
            what = f"in row {row} of its layers an expert is chosen more often than there are tokens of k experts"
            raise ProblemError(Problem("bad-trace", what, "trace", "check the header's 'k'"))
    return names, count_MLE


def k_of(trace: RoutingTrace, row: int) -> int:
    """Experts a token in this layer; raises `ProblemError` where the header does not say."""
    k = trace.header.get("k")
    k = k[row] if isinstance(k, list) and row < len(k) else k
    if not isinstance(k, int) or not 1 <= k <= trace.counts_SLE.shape[2]:
        what = f"the header's 'k' (experts a token) is {k!r}"
        raise ProblemError(Problem("bad-trace", what, "trace", "write it when making the trace"))
    return k


def atlas(traces: Mapping[str, RoutingTrace]) -> dict[str, Any]:
    """What `penstock profile FILE` prints."""
    models = []
    for name, trace in traces.items():
        if not trace.counts_SLE.any():
            raise ProblemError(
                Problem("empty-trace", "the trace has no assignments", name, "profile or train for a step")
            )
        models.append(
            {
                "model": name,
                "k": trace.header.get("k"),
                "assignments": int(trace.counts_LE.sum()),
                "domains": list(dict.fromkeys(trace.header.get("domains", []))),
                "dropped_warm_up": trace.header.get("dropped_warm_up", 0),
                "layers": load_figures(trace),
                "pairs": pair_figures(trace),
            }
        )
    return {"models": models}


def pair_figures(trace: RoutingTrace) -> list[dict[str, Any]]:
    """For each pair of neighbouring layers that were traced, the bits that an expert of one tells about the other's;
    empty where the header's `pairs` does not have the counts."""
    return [
        {
            "layers": trace.header["layers"][row : row + 2],
            "information_bits": figures.mutual_information(count_EE),
            "information_bits_null": figures.independent_information(count_EE),
        }
        for row, count_EE in enumerate(pair_counts(trace))
    ]


def pair_counts(trace: RoutingTrace) -> np.ndarray:
    """The header's `pairs`, int64 [L - 1, E, E]; without any, [0, E, E]."""
    layers, experts = trace.counts_LE.shape
    if "pairs" not in trace.header:
        return np.zeros((0, experts, experts), dtype=np.int64)
    try:
        count_PEE = np.array(trace.header["pairs"], dtype=np.int64)
    except (ValueError, TypeError):  # ragged, or no numbers
        count_PEE = np.zeros(0, dtype=np.int64)
    if count_PEE.shape != (layers - 1, experts, experts) or (count_PEE < 0).any():
        what = f"the header's 'pairs' is no table of counts [{layers - 1}, {experts}, {experts}]"
        raise ProblemError(Problem("bad-trace", what, "trace", "leave it out"))
    return count_PEE


def layer_line(layer: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table, as `HEADINGS` has it."""
    told = layer.get("specialisation")
    bits = "-" if told is None or len(told["domains"]) < 2 else f"{told['information_bits']:.3f}"
    return (str(layer["layer"]), *(decimals(layer[name]) for name in NAMES), bits)


def verdicts(model: Mapping[str, Any]) -> list[str]:
    """A sentence for each kind of layer that the domains tell apart, or why there is none; and what pairs tell."""
    told = [
        f"an expert of layer {pair['layers'][0]} tells {pair['information_bits']:.3f} bits about that of layer "
        f"{pair['layers'][1]}"
        for pair in model["pairs"]
    ]
    if not model["domains"]:
        unknown = "without domains nothing is known of specialisation: even load may be that of experts that are alike"
        return [unknown, *told]
    layers_by_verdict: dict[str, list[str]] = {}
    for layer in model["layers"]:
        layers_by_verdict.setdefault(layer["specialisation"]["verdict"], []).append(str(layer["layer"]))
    return [*(f"{verdict}: layer {', '.join(layers)}" for verdict, layers in layers_by_verdict.items()), *told]


@dataclass(frozen=True, slots=True)
class Map:
    """A heat map: its lines go down from `first` to `last`, its columns from `left` to `right`."""

    title: str
    first: str
    last: str
    left: str
    right: str
    image: str


Texts = tuple[str, str, str, str, str]
"""The texts of a `Map`, in its order."""


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


def write_atlas(title: str, traces: Mapping[str, RoutingTrace], result: Mapping[str, Any], out: Path) -> Path:
    """Writes the page of `atlas(traces)`, whole or not at all."""
    views = [
        ModelView(
            model["model"],
            f"{model['assignments']:,} assignments, {trace.counts_SLE.shape[2]} experts in "
            f"{trace.counts_SLE.shape[1]} layers"
            + (f", domains {', '.join(model['domains'])}" if model["domains"] else ""),
            cards_of(trace),
            [layer_line(layer) for layer in model["layers"]],
            verdicts(model),
        )
        for model, trace in zip(result["models"], traces.values(), strict=True)
    ]
    return write_page("atlas.html.j2", out, title=title, views=views, columns=HEADINGS)


def cards_of(trace: RoutingTrace) -> list[MapCard]:
    """Load of all layers; preferences where domains are known; pairs where each token's experts are."""
    layers = [str(layer) for layer in trace.header.get("layers", range(trace.counts_SLE.shape[1]))]
    shown = sorted({round(row) for row in np.linspace(0, len(layers) - 1, min(len(layers), MOST_MAPS))})
    load_LE = trace.counts_LE / np.maximum(trace.counts_LE.mean(axis=1, keepdims=True), 1)
    last = str(trace.counts_SLE.shape[2] - 1)
    whole = ("", f"layer {layers[0]}", layers[-1], "expert 0", last)
    caption = "Each row a layer. Orange experts have more than an even share, blue ones less."
    cards = [_card("Load", "relative to an even share", [(whole, load_LE)], caption)]
    domains = domain_counts(trace)
    if domains is not None:
        names, count_MLE = domains
        maps = [
            (
                (f"Layer {layers[row]}", names[0], names[-1], "expert 0", last),
                figures.preference(count_MLE[:, row], k_of(trace, row)).lift_ME,
            )
            for row in shown
        ]
        caption = f"Each row a domain, in the order {', '.join(names)}: its tokens' share over the uniform k / E."
        cards.append(_card("Preferences of domains", "relative to uniform", maps, caption))
    maps = [
        (
            (f"Layers {layers[row]} and {layers[row + 1]}", "0", last, "expert 0", last),
            figures.dependence_lift(count_EE),
        )
        for row, count_EE in enumerate(pair_counts(trace))
    ]
    if maps:
        caption = "Each row an expert of the first layer, each column one of the second: orange pairs share tokens."
        cards.append(_card("From layer to layer", "relative to chance", maps, caption))
    if trace.expert_NLK is not None:
        experts = trace.counts_SLE.shape[2]
        maps = [
            (
                (f"Layer {layers[row]}", "0", last, "expert 0", last),
                figures.coactivation_lift(figures.coactivation(trace.expert_NLK[:, row], experts)),
            )
            for row in shown
        ]
        caption = (
            "Pairs that meet more often than their frequencies explain are orange, those that avoid each other blue."
        )
        cards.append(_card("Experts of the same token", "relative to chance", maps, caption))
    return cards


def _card(title: str, unit: str, maps: Sequence[tuple[Texts, np.ndarray]], caption: str) -> MapCard:
    limit = charts.heat_limit(np.concatenate([ratio.ravel() for _, ratio in maps]))
    drawn = [Map(*texts, charts.heat_image(ratio, limit, rows=240, columns=480)) for texts, ratio in maps]
    return MapCard(title, unit, f"{limit:g}", drawn, caption)
