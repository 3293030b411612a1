"""Figures of any trace, and their text: load, domain preferences, and which experts work together.

Shape suffixes: S steps, M domains, L layers, P pairs of adjacent layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.hooks.problems import Problem, ProblemError
from penstock.pages.formats import decimals
from penstock.run.records.profile import (
    Atlas,
    DomainPreference,
    ExpertPair,
    LayerPair,
    LayerProfile,
    LayerSpecialisation,
    Profile,
)
from penstock.traces import load
from penstock.traces import specialisation as figures
from penstock.traces.header import WORD_BITS
from penstock.traces.trace import RoutingTrace

NAMES = ("max_violation", "max_over_mean", "max_over_min", "gini", "cv", "variance", "entropy")
HEADINGS = (
    "layer",
    "MaxVio",
    "max/mean",
    "max/min",
    "Gini",
    "CV",
    "variance",
    "entropy",
    "dead",
    "bits of domain",
    "closest pair",
)
MOST_COUNTS = 16
"""Largest number of experts whose counts are printed; larger ones are in the JSON and on the page."""
MOST_PREFERRED = 3
PREFERENCES = ("layer", "domain", "prefers", "avoids", "most preferred, share of its tokens")


@dataclass(frozen=True, slots=True)
class Tables:
    """A trace and the counts taken from it, once for both its figures and its page.

    `layers` are the model's own layer numbers. `domains` are the names of the rows of `count_MLE`, empty if the trace
    has no domains. `both_LEE` counts tokens that chose both experts, None if the experts of each token are unknown.
    `pair_PEE` holds joint counts of adjacent layers, empty (P = 0) if they are unknown.
    """

    trace: RoutingTrace
    layers: Sequence[int]
    domains: Sequence[str]
    count_MLE: np.ndarray
    both_LEE: np.ndarray | None
    pair_PEE: np.ndarray


def tables_of(trace: RoutingTrace) -> Tables:
    """Raises `ProblemError` if the trace is empty or its header's `pairs` do not fit it."""
    if not trace.counts_SLE.any():
        name, fix = str(trace.header.get("model", "trace")), "record at least one step"
        raise ProblemError(Problem("empty-trace", "the trace has no assignments", name, fix))
    layers = trace.header.get("layers", range(trace.counts_SLE.shape[1]))
    domains = list(dict.fromkeys(trace.header.get("domains", [])))
    return Tables(trace, layers, domains, _domain_counts(trace, domains), _meetings(trace), _pair_counts(trace))


def load_figures(tables: Tables) -> list[LayerProfile]:
    """The load of each layer, and specialisation or co-activation if domains or choices are known."""
    trace = tables.trace
    counts_LE = trace.counts_LE
    metrics = {
        "max_violation": load.max_violation(counts_LE),
        "gini": load.gini(counts_LE),
        "entropy": load.entropy(counts_LE),
        "cv": load.coefficient_of_variation(counts_LE),
        "dead_experts": load.dead_experts(counts_LE),
    }
    return [
        LayerProfile(
            layer=layer,
            **{name: value[row].item() for name, value in metrics.items()},
            **load.spread(counts_LE[row]),
            specialisation=_specialisation(tables, row),
            coactivation=_coactivation(tables, row),
            counts=counts_LE[row].tolist(),
        )
        for row, layer in enumerate(tables.layers)
    ]


def _specialisation(tables: Tables, row: int) -> LayerSpecialisation | None:
    if not tables.domains:
        return None
    count_ME = tables.count_MLE[:, row]
    found = figures.preference(count_ME, k_of(tables.trace, row))
    domains = {
        name: DomainPreference(
            prefers=np.flatnonzero(found.above_ME[index]).tolist(),
            avoids=np.flatnonzero(found.below_ME[index]).tolist(),
            share=found.share_ME[index].tolist(),
            low=found.low_ME[index].tolist(),
            high=found.high_ME[index].tolist(),
            uniform=found.uniform,
        )
        for index, name in enumerate(tables.domains)
    }
    words = tables.trace.header.get(WORD_BITS)
    return LayerSpecialisation(**figures.specialisation(count_ME, words[row] if words else None), domains=domains)


def _coactivation(tables: Tables, row: int) -> list[ExpertPair] | None:
    if tables.both_LEE is None:
        return None
    return [ExpertPair(**pair) for pair in figures.closest_pairs(tables.both_LEE[row])]


def _meetings(trace: RoutingTrace) -> np.ndarray | None:
    if trace.expert_NLK is None:
        return None
    layers, experts = trace.counts_LE.shape
    return np.stack([figures.coactivation(trace.expert_NLK[:, row], experts) for row in range(layers)])


def _domain_counts(trace: RoutingTrace, names: Sequence[str]) -> np.ndarray:
    """`count_MLE`, where the header's `domains` names one for each step."""
    count_MLE = np.zeros((len(names), *trace.counts_SLE.shape[1:]), dtype=np.int64)
    if not names:
        return count_MLE
    np.add.at(count_MLE, [names.index(label) for label in trace.header["domains"]], trace.counts_SLE)
    for row in range(trace.counts_SLE.shape[1]):
        if (count_MLE[:, row].max(axis=1) * k_of(trace, row) > count_MLE[:, row].sum(axis=1)).any():
            what = f"in layer row {row} an expert is chosen by more tokens than there are"
            raise ProblemError(Problem("bad-trace", what, "trace", "check the header's 'k'"))
    return count_MLE


def k_of(trace: RoutingTrace, row: int) -> int:
    """Experts per token in this layer; raises `ProblemError` if the header does not say."""
    k = trace.header.get("k")
    k = k[row] if isinstance(k, list) and row < len(k) else k
    if type(k) is not int or not 1 <= k <= trace.counts_SLE.shape[2]:
        what = f"the header's 'k' (experts per token) is {k!r}"
        raise ProblemError(Problem("bad-trace", what, "trace", "write a valid 'k' to the header"))
    return k


def atlas(tables: Mapping[str, Tables]) -> Atlas:
    """What `penstock profile TRACE` prints."""
    return Atlas([model_figures(name, each) for name, each in tables.items()])


def model_figures(name: str, tables: Tables) -> Profile:
    """All figures of one trace."""
    trace = tables.trace
    return Profile(
        model=name,
        k=trace.header.get("k"),
        assignments=int(trace.counts_LE.sum()),
        domains=list(tables.domains),
        dropped_warm_up=trace.header.get("dropped_warm_up", 0),
        layers=load_figures(tables),
        pairs=pair_figures(tables),
    )


def pair_figures(tables: Tables) -> list[LayerPair]:
    """For each pair of adjacent traced layers, the bits that an expert in one gives about the expert in the other;
    empty without the header's `pairs`."""
    return [
        LayerPair(
            layers=list(tables.layers[row : row + 2]),
            information_bits=figures.mutual_information(count_EE),
            information_bits_null=figures.independent_information(count_EE),
        )
        for row, count_EE in enumerate(tables.pair_PEE)
    ]


def _pair_counts(trace: RoutingTrace) -> np.ndarray:
    """The header's `pairs`, int64 [P, E, E]; without any, [0, E, E]."""
    layers, experts = trace.counts_LE.shape
    if "pairs" not in trace.header:
        return np.zeros((0, experts, experts), dtype=np.int64)
    try:
        count_PEE = np.array(trace.header["pairs"], dtype=np.int64)
    except (ValueError, TypeError, OverflowError):  # ragged, not numbers, or too large
        count_PEE = np.zeros(0, dtype=np.int64)
    if count_PEE.shape != (layers - 1, experts, experts) or (count_PEE < 0).any():
        what = f"the header's 'pairs' must be a table of counts [{layers - 1}, {experts}, {experts}]"
        raise ProblemError(Problem("bad-trace", what, "trace", "correct it, or leave it out"))
    return count_PEE


def layer_line(layer: LayerProfile) -> tuple[str, ...]:
    """One line of the table, with the columns `HEADINGS`."""
    told = layer.specialisation
    bits = "-" if told is None or len(told.domains) < 2 else f"{told.information_bits:.3f}"
    closest = next(iter(layer.coactivation or ()), None)
    pair = "-" if closest is None else "{}+{} {:.2f}x".format(*closest.experts, closest.lift)
    loads = [decimals(getattr(layer, name)) for name in NAMES]
    return (str(layer.layer), *loads, f"{layer.dead_experts:.0f}", bits, pair)


def preference_lines(layers: Sequence[LayerProfile]) -> list[tuple[str, ...]]:
    """A line for each layer and domain, with the columns `PREFERENCES`; empty without domains."""
    return [
        (
            str(layer.layer),
            name,
            f"{len(domain.prefers)} of {len(domain.share)}",
            str(len(domain.avoids)),
            ", ".join(_share_text(domain, expert) for expert in _most_preferred(domain)) or "-",
        )
        for layer in layers
        if layer.specialisation is not None
        for name, domain in layer.specialisation.domains.items()
    ]


def _most_preferred(domain: DomainPreference) -> list[int]:
    return sorted(domain.prefers, key=lambda expert: -domain.share[expert])[:MOST_PREFERRED]


def _share_text(domain: DomainPreference, expert: int) -> str:
    share, low, high = (100 * column[expert] for column in (domain.share, domain.low, domain.high))
    return f"{expert}: {share:.1f} % ({low:.1f} to {high:.1f})"


def preference_caption(layers: Sequence[LayerProfile]) -> str:
    """The baseline of `preference_lines`; empty if there are no preferences."""
    told = layers[0].specialisation
    if told is None:
        return ""
    first = next(iter(told.domains.values()))
    return (
        f"A domain prefers an expert whose 95 % interval is above the uniform k / E, and avoids one whose interval is "
        f"below it. Here k / E is {100 * first.uniform:.1f} % in layer {layers[0].layer}. "
        "Intervals assume independent tokens."
    )


def count_lines(layers: Sequence[LayerProfile]) -> list[tuple[str, ...]]:
    """The assignments of each layer's experts, or nothing if a terminal is not wide enough."""
    if len(layers[0].counts or ()) > MOST_COUNTS:
        return []
    return [(str(layer.layer), *(f"{count:,}" for count in layer.counts or ())) for layer in layers]


def verdicts(model: Profile) -> list[str]:
    """One sentence per pair of layers and per test of specialisation; a test that cannot be run gives its reason."""
    told = [
        f"an expert of layer {pair.layers[0]} gives {pair.information_bits:.3f} bits about the expert of "
        f"layer {pair.layers[1]}"
        for pair in model.pairs
    ]
    if not model.domains:
        unknown = "without domains, specialisation is unknown: experts with even load may all do the same"
        return [unknown, *told]
    layers_by_verdict: dict[str, list[str]] = {}
    for layer in model.layers:
        if layer.specialisation is not None:
            layers_by_verdict.setdefault(layer.specialisation.verdict, []).append(str(layer.layer))
    return [
        *(f"{verdict}: layer {', '.join(layers)}" for verdict, layers in layers_by_verdict.items()),
        *_word_lines(model),
        *told,
    ]


def _word_lines(model: Profile) -> list[str]:
    """What each layer's bits were held against, if the tokens were known."""
    known = [
        f"{found.information_bits:.3f} against {found.information_bits_words:.3f} in layer {layer.layer}"
        for layer in model.layers
        if (found := layer.specialisation) is not None and found.information_bits_words is not None
    ]
    what = "bits of domain, against the 95 % bound of routers that give each token id experts at random: "
    return [what + ", ".join(known)] if known else []
