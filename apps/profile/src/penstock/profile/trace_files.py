"""Reads routing traces: our own `.npz`, and the two formats in which public ones of OLMoE, Mixtral and Qwen1.5-MoE are.

- A table of counts (`.json`) by model, domain, layer and expert, as the authors of OLMoE published theirs. A domain
  becomes a step of the trace, and the header's `domains` names it. A file of theirs that has but the pairs of experts
  that tokens chose in two layers is read to a trace of those: its load is of the first layer of a pair and of the last,
  and the header's `pairs` has the counts of all domains, [L - 1, E, E].
- One line a token (`.jsonl`) with the expert ids that vLLM chose. vLLM measures its memory on dummy tokens before it
  reads text: once 2,048 rows of OLMoE, twice 8,192 of Qwen, each time all of one choice. They are dropped.
  `token_idx` begins again with each batch of Qwen, which becomes a step.

Either may be packed with xz. Shape suffixes: M domains, L layers, E experts, N tokens, K experts a token.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.trace import RoutingTrace

_SIZES: dict[str, dict[str, Any]] = {
    "olmoe": {"k": 8, "hidden_size": 2048, "layers": [0, 7, 15]},
    "mistral": {"k": 2, "hidden_size": 4096, "layers": [0, 15, 31]},
}
"""What the tables of counts do not say, from the models' configs and the published figures."""
DUMMY_RUN = 1024
"""Consecutive tokens of one choice that no text has: the longest run in the public traces' text is 7."""


def read_traces(path: Path) -> dict[str, RoutingTrace]:
    """The traces of a file by the name of their model; raises `ProblemError` for a file that is none."""
    if path.name.endswith(".npz"):
        trace = RoutingTrace.load(path)
        return {str(trace.header.get("model", path.stem)): trace}
    try:
        with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
            text = file.read()
        if path.name.removesuffix(".xz").endswith(".jsonl"):
            return _of_lines([json.loads(line) for line in text.splitlines() if line.strip()])
        return _of_table(json.loads(text))
    except FileNotFoundError:
        raise ProblemError(Problem("missing-file", "there is no such trace", str(path), "check the path")) from None
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"not a routing trace, or damaged ({type(error).__name__}: {error})"
        fix = "give a trace .npz, a table of counts .json, or the lines of vLLM .jsonl"
        raise ProblemError(Problem("bad-trace", what, str(path), fix)) from error


def _of_table(table: Mapping[str, Any]) -> dict[str, RoutingTrace]:
    readers = {"expert_counts": _of_domains, "expert_counts_crosslayer": _of_pairs}
    for kind, read in readers.items():
        models = {name: kinds[kind] for name, kinds in table["models"].items() if kind in kinds}
        if models:
            return {name: read(name, domains) for name, domains in models.items()}
    raise ValueError("no model of it has `expert_counts` or `expert_counts_crosslayer`")


def _of_pairs(model: str, domains: Mapping[str, Sequence[Sequence[tuple[int, int, int]]]]) -> RoutingTrace:
    """A triple is an expert of a layer, one of the next layer that was traced, and the assignments that had both."""
    rows = [np.array(pair) for pairs in domains.values() for pair in pairs]
    experts = 1 + max(int(row[:, :2].max()) for row in rows)
    pairs = len(next(iter(domains.values())))
    count_MPEE = np.zeros((len(domains), pairs, experts, experts), dtype=np.int64)
    for index, row in enumerate(rows):
        np.add.at(count_MPEE[index // pairs, index % pairs], (row[:, 0], row[:, 1]), row[:, 2])
    if (count_MPEE < 0).any():
        raise ValueError("negative counts")
    if (count_MPEE[:, :-1].sum(axis=2) != count_MPEE[:, 1:].sum(axis=3)).any():
        raise ValueError("two pairs of layers disagree on the load of the layer between them")
    count_MLE = np.concatenate([count_MPEE.sum(axis=3), count_MPEE[:, -1:].sum(axis=2)], axis=1)
    header = {"model": model, "domains": list(domains), **_sizes(model, pairs + 1)}
    return RoutingTrace(count_MLE, header | {"pairs": count_MPEE.sum(axis=0).tolist()})


def _of_domains(model: str, domains: Mapping[str, Sequence[Mapping[str, int]]]) -> RoutingTrace:
    experts = 1 + max(int(expert) for layers in domains.values() for counts in layers for expert in counts)
    layers = len(next(iter(domains.values())))
    count_MLE = np.zeros((len(domains), layers, experts), dtype=np.int64)
    for domain, rows in enumerate(domains.values()):
        for layer, counts in enumerate(rows):
            for expert, count in counts.items():
                count_MLE[domain, layer, int(expert)] = count
    return RoutingTrace(count_MLE, {"model": model, "domains": list(domains), **_sizes(model, layers)})


def _sizes(model: str, layers: int) -> dict[str, Any]:
    sizes = _SIZES.get(model.split("-")[0])
    if sizes is None or len(sizes["layers"]) != layers:
        raise ValueError(f"how many experts a token of {model} takes is not known; known are {', '.join(_SIZES)}")
    return sizes


def _of_lines(lines: Sequence[Mapping[str, Any]]) -> dict[str, RoutingTrace]:
    meta, *rows = lines
    by_layer: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_layer[row["layer"]].append(row)
    layers = sorted(by_layer)
    expert_NLK = np.stack([[row["topk_ids"] for row in by_layer[layer]] for layer in layers], axis=1)
    text_N = ~_dummy_tokens(expert_NLK)
    if not text_N.any():
        raise ValueError("all of its tokens are of one choice")
    expert_NLK = expert_NLK[text_N]
    index_N = np.array([row["token_idx"] for row in by_layer[layers[0]]])[text_N]
    step_N = np.concatenate([[0], np.cumsum(np.diff(index_N) <= 0)])
    experts = int(meta.get("num_experts", expert_NLK.max() + 1))
    header = {
        "model": meta["model_id"],
        "k": int(expert_NLK.shape[2]),
        "layers": layers,
        "tokens": len(expert_NLK),
        "dropped_warm_up": int((~text_N).sum()),
    }
    count_SLE = np.zeros((int(step_N[-1]) + 1, len(layers), experts), dtype=np.int64)
    np.add.at(count_SLE, (step_N[:, None, None], np.arange(len(layers))[:, None], expert_NLK), 1)
    return {meta["model_id"]: RoutingTrace(count_SLE, header, expert_NLK)}


def _dummy_tokens(expert_NLK: np.ndarray) -> np.ndarray:
    """True for the rows of runs of one choice that are longer than any text's: bool [N]."""
    changes_N = np.concatenate([[True], (expert_NLK[1:] != expert_NLK[:-1]).any(axis=(1, 2))])
    run_N = np.cumsum(changes_N) - 1
    return np.bincount(run_N)[run_N] >= DUMMY_RUN
