"""Routing traces that other programs wrote, as `RoutingTrace`.

| file | written by |
|---|---|
| `.npz` | Penstock: a training run or `penstock profile` |
| `.jsonl`, `.jsonl.xz` | a vLLM server that logs each token's experts: {"type": "meta"}, then {"type": "route"} lines |
| `.json`, `.json.xz` | counts of experts by model and text domain, as published for OLMoE and Mixtral |

Recordings of SGLang are PyTorch files, which this package does not read without torch: `from_counts` takes their array.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from penstock.hooks.problems import Problem, ProblemError
from penstock.traces.trace import RoutingTrace

TOKENS_PER_STEP = 512
"""Tokens that a step of a token log gets; its lines have no steps of their own."""


def read_trace(path: Path, model: str | None = None) -> RoutingTrace:
    """The trace in a file; `model` chooses one of several. Raises `ProblemError` for a file that is no trace."""
    name = path.name.removesuffix(".xz")
    if name.endswith((".jsonl", ".json")) and not path.exists():
        raise ProblemError(Problem("missing-file", "there is no such trace", str(path)))
    try:
        if name.endswith(".jsonl"):
            return _token_log(_lines(path), path)
        if name.endswith(".json"):
            return _published_counts(json.loads("".join(_lines(path))), model, path)
    except (ValueError, KeyError, TypeError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ProblemError(Problem("bad-trace", f"not a routing trace, or damaged ({error})", str(path))) from error
    return RoutingTrace.load(path)


def from_counts(counts_SLE: ArrayLike, k: int, **header: Any) -> RoutingTrace:
    """A trace of counts by step, layer and expert, such as `logical_count` of an SGLang recording."""
    counts = np.asarray(counts_SLE)
    return RoutingTrace(np.rint(counts).astype(np.int64), {"k": k, "layers": list(range(counts.shape[1])), **header})


def _lines(path: Path) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
        yield from file


def _token_log(lines: Iterator[str], path: Path) -> RoutingTrace:
    """A step is 512 tokens of a layer, in the order of the log; a server's warm-up is among them, unmarked."""
    meta: dict[str, Any] = {}
    experts_of: dict[int, list[list[int]]] = {}
    for line in lines:
        record: dict[str, Any] = json.loads(line)
        if record.get("type") == "meta":
            meta = record
        elif record.get("type") == "route":
            experts_of.setdefault(int(record["layer"]), []).append([int(expert) for expert in record["topk_ids"]])
    if not experts_of:
        raise ProblemError(Problem("empty-trace", "the log holds no routed token", str(path)))
    layers = sorted(experts_of)
    tokens = min(len(experts_of[layer]) for layer in layers)
    expert_NLK = np.array([experts_of[layer][:tokens] for layer in layers]).swapaxes(0, 1)
    experts = int(meta.get("num_experts", expert_NLK.max() + 1))
    steps = max(1, tokens // TOKENS_PER_STEP)
    counts_SLE = np.zeros((steps, len(layers), experts), dtype=np.int64)
    step_N = np.minimum(np.arange(tokens) // TOKENS_PER_STEP, steps - 1)
    for row in range(len(layers)):
        np.add.at(counts_SLE[:, row], (step_N[:, None], expert_NLK[:, row]), 1)
    header = {"model": str(meta.get("model_id", path.stem)), "k": expert_NLK.shape[2], "layers": layers}
    return RoutingTrace(counts_SLE, header, expert_NLK)


def _published_counts(document: Mapping[str, Any], model: str | None, path: Path) -> RoutingTrace:
    """A step is a text domain. k is what a domain's counts are over those of its tokens' first experts, where given."""
    models: Mapping[str, Any] = document["models"]
    chosen = model or next(iter(models), "")
    if chosen not in models:
        what = f"there is no model '{chosen}'"
        raise ProblemError(Problem("bad-trace", what, str(path), f"choose of {', '.join(models)}"))
    domains: Mapping[str, Any] = models[chosen]["expert_counts"]
    rows = [[_counts(layer) for layer in _layers(domain)] for domain in domains.values()]
    experts = max(len(row) for domain in rows for row in domain)
    counts_SLE = np.array([[np.pad(row, (0, experts - len(row))) for row in domain] for domain in rows])
    top1: Mapping[str, Any] = models[chosen].get("expert_counts_top1", {})
    named = next((name for name in top1 if name in domains), None)
    k = (
        1
        if named is None
        else round(counts_SLE[list(domains).index(named)][0].sum() / sum(_counts(_layers(top1[named])[0])))
    )
    return from_counts(counts_SLE, k, model=chosen, domains=list(domains))


def _layers(domain: Any) -> Sequence[Mapping[str, int]]:
    return domain["counts"] if isinstance(domain, Mapping) else domain


def _counts(layer: Mapping[str, int]) -> list[int]:
    row = [0] * (max(map(int, layer)) + 1)
    for expert, count in layer.items():
        row[int(expert)] = int(count)
    return row
