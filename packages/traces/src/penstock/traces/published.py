"""Tables of counts by model and text domain, as published by the authors of OLMoE for OLMoE and Mixtral.

- `expert_counts`: for each layer the assignments of each expert. A domain becomes a step of the trace, and the header's
  `domains` names it.
- `expert_counts_crosslayer`: for each two consecutive layers of the table, how many assignments had one
  expert in the first and one in the second. The trace holds the load of every layer, and the header's `pairs` the
  counts of all domains, [L - 1, E, E].

Shape suffixes: M domains, L layers, P pairs of layers, E experts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.hooks.json_text import parse_json
from penstock.traces.trace import RoutingTrace

KNOWN: dict[str, dict[str, Any]] = {
    "olmoe": {"k": 8, "hidden_size": 2048, "layers": [0, 7, 15]},
    "mistral": {"k": 2, "hidden_size": 4096, "layers": [0, 15, 31]},
}
"""Facts missing from the tables, from the models' configs and the published figures, by the start of a model's name."""

MOST_PAIRED = 4096
"""More experts than any model has in a layer; a table of pairs of them is then 128 MB."""

Layer = Mapping[str, int]


def traces_of(text: str) -> dict[str, RoutingTrace]:
    """The traces of a table by the name of their model; raises ValueError, KeyError or TypeError if it is not one."""
    models: Mapping[str, Mapping[str, Any]] = parse_json(text, distinct=True)["models"]
    counts = {name: _of_counts(name, tables) for name, tables in models.items() if "expert_counts" in tables}
    if counts:
        return counts
    pairs = {
        name: _of_pairs(name, tables["expert_counts_crosslayer"])
        for name, tables in models.items()
        if "expert_counts_crosslayer" in tables
    }
    if not pairs:
        raise ValueError("no model in it has `expert_counts` or `expert_counts_crosslayer`")
    return pairs


def _of_counts(model: str, tables: Mapping[str, Any]) -> RoutingTrace:
    domains = {name: _layers(domain) for name, domain in tables["expert_counts"].items()}
    _require_equal_lengths(model, domains, "layers")
    experts = 1 + max(_expert(key) for layers in domains.values() for counts in layers for key in counts)
    count_MLE = np.array([[_row(counts, experts) for counts in layers] for layers in domains.values()], dtype=np.int64)
    said = next((domain["layers"] for domain in tables["expert_counts"].values() if isinstance(domain, Mapping)), None)
    header = _header(model, count_MLE.shape[1], said, _k_of_first_choices(domains, tables))
    return RoutingTrace(count_MLE, {**header, "domains": list(domains)})


def _layers(domain: Any) -> Sequence[Layer]:
    """A domain is a list of layers, or {"layers": [0, 7, 15] or null, "counts": that list}."""
    return domain["counts"] if isinstance(domain, Mapping) else domain


def _row(counts: Layer, experts: int) -> list[int]:
    row = [0] * experts
    for key, count in counts.items():
        if type(count) is not int:
            raise ValueError(f"{count!r} assignments of expert {key} are not a count")
        row[_expert(key)] = count
    return row


def _expert(key: str) -> int:
    """The number that a key spells. "01" is refused, because it would be counted over "1"."""
    if not re.fullmatch("0|[1-9][0-9]{0,5}", key):
        raise ValueError(f"'{key}' is not the number of an expert")
    return int(key)


def _k_of_first_choices(domains: Mapping[str, Sequence[Layer]], tables: Mapping[str, Any]) -> int | None:
    """Experts per token, if `expert_counts_top1` has the counts of tokens' first experts in one of the domains."""
    for name, domain in tables.get("expert_counts_top1", {}).items():
        if name in domains:
            total, tokens = sum(domains[name][0].values()), sum(_layers(domain)[0].values())
            if tokens < 1 or total % tokens:
                raise ValueError(f"'{name}' has {total} assignments of {tokens} tokens, which is no number per token")
            return total // tokens
    return None


def _header(model: str, layers: int, said: Sequence[int] | None, k: int | None) -> dict[str, Any]:
    known = KNOWN.get(model.split("-")[0])
    if known is None and k is None:
        raise ValueError(f"unknown number of experts per token of {model}; known models: {', '.join(KNOWN)}")
    header: dict[str, Any] = {"model": model, **(known or {"k": k, "layers": list(range(layers))})}
    if said is not None:
        header["layers"] = list(said)
    if len(header["layers"]) != layers:
        raise ValueError(f"{model} has counts of {layers} layers, but which layers of the model is unknown")
    return header


def _of_pairs(model: str, domains: Mapping[str, Sequence[Sequence[tuple[int, int, int]]]]) -> RoutingTrace:
    """A triple is an expert of a layer, an expert of the next traced layer, and the assignments that had both."""
    _require_equal_lengths(model, domains, "pairs of layers")
    rows = [np.array(pair) for pairs in domains.values() for pair in pairs]
    if any(row.ndim != 2 or row.shape[1] != 3 or row.dtype.kind != "i" or row.min() < 0 for row in rows):
        raise ValueError("pairs of layers must be triples of integers that are not negative")
    if max(int(row[:, :2].max()) for row in rows) >= MOST_PAIRED:
        raise ValueError(f"pairs of layers name experts of {MOST_PAIRED} and above")
    experts = 1 + max(int(row[:, :2].max()) for row in rows)
    pairs = len(next(iter(domains.values())))
    count_MPEE = np.zeros((len(domains), pairs, experts, experts), dtype=np.int64)
    for index, row in enumerate(rows):
        np.add.at(count_MPEE[index // pairs, index % pairs], (row[:, 0], row[:, 1]), row[:, 2])
    if (count_MPEE[:, :-1].sum(axis=2) != count_MPEE[:, 1:].sum(axis=3)).any():
        raise ValueError("two pairs of layers disagree on the load of the layer between them")
    count_MLE = np.concatenate([count_MPEE.sum(axis=3), count_MPEE[:, -1:].sum(axis=2)], axis=1)
    header = {**_header(model, pairs + 1, None, None), "domains": list(domains)}
    return RoutingTrace(count_MLE, header | {"pairs": count_MPEE.sum(axis=0).tolist()})


def _require_equal_lengths(model: str, domains: Mapping[str, Sequence[Any]], what: str) -> None:
    lengths = {name: len(rows) for name, rows in domains.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"domains of {model} differ in their number of {what}, or have none: {lengths}")
