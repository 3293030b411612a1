"""Logs of a vLLM server that logs the experts of each token: a line {"type": "meta", "model_id", "num_experts"}, then
a line {"type": "route", "layer", "token_idx", "topk_ids"} for each token and layer.

vLLM profiles its memory with dummy tokens before it reads text: once 2,048 rows for OLMoE, twice 8,192 for Qwen, each
time all with the same choice. They are dropped, and the header's `dropped_warm_up` is their number. `token_idx`
restarts with each batch, which becomes a step.

Shape suffixes: S steps, L layers, E experts, N tokens, K experts per token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.json_text import parse_json
from penstock.traces.trace import RoutingTrace

DUMMY_RUN = 1024
"""More consecutive tokens with the same choice than in any text: the longest run in the public traces' text is 7."""


MOST_EXPERTS = 1 << 20
"""More experts than any model has; a table of counts for a number beyond it would fill the memory."""


@dataclass(frozen=True, slots=True)
class _Log:
    """The lines of a log: its metadata line, and the tokens' numbers and experts by layer."""

    meta: dict[str, Any] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    experts: dict[int, list[list[int]]] = field(default_factory=dict)


def traces_of(lines: Iterable[str]) -> dict[str, RoutingTrace]:
    """The trace of a log, by the name of its model. Raises a ValueError that names the line if it is not such a log."""
    log = _parsed(lines)
    layers, token_N, expert_NLK = _aligned(log)
    text_N = ~_dummy_tokens(expert_NLK)
    if not text_N.any():
        raise ValueError("all of its tokens chose the same experts")
    expert_NLK, token_N = expert_NLK[text_N], token_N[text_N]
    experts = log.meta.get("num_experts", int(expert_NLK.max()) + 1)
    if expert_NLK.max() >= experts:
        raise ValueError(f"it has experts {expert_NLK.min()} to {expert_NLK.max()}, but only {experts} experts")
    step_N = np.concatenate([[0], np.cumsum(np.diff(token_N) <= 0)])
    counts_SLE = np.zeros((int(step_N[-1]) + 1, len(layers), experts), dtype=np.int64)
    np.add.at(counts_SLE, (step_N[:, None, None], np.arange(len(layers))[:, None], expert_NLK), 1)
    header = {
        "model": log.meta["model_id"],
        "k": int(expert_NLK.shape[2]),
        "layers": layers,
        "tokens": len(expert_NLK),
        "dropped_warm_up": int((~text_N).sum()),
    }
    return {header["model"]: RoutingTrace(counts_SLE, header, expert_NLK)}


def _parsed(lines: Iterable[str]) -> _Log:
    log = _Log()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _take(log, parse_json(line))
        except KeyError as error:
            raise ValueError(f"line {number} has no {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number}: {error}") from error
    return log


def _take(log: _Log, record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    if not log.meta:
        log.meta.update({**record, "model_id": str(record["model_id"])})
        experts = record.get("num_experts", 1)
        if type(experts) is not int or not 0 < experts <= MOST_EXPERTS:
            raise ValueError(f"`num_experts` is {experts!r}; it must be an integer from 1 to {MOST_EXPERTS}")
    elif record["type"] == "route":
        layer, token, chosen = record["layer"], record["token_idx"], record["topk_ids"]
        if not isinstance(chosen, list) or {type(each) for each in (layer, token, *chosen)} != {int}:
            raise ValueError("`layer`, `token_idx` and `topk_ids` must be integers")
        if not chosen or min(layer, token, *chosen) < 0 or max(chosen) >= MOST_EXPERTS or token >= 2**63:
            raise ValueError("`layer`, `token_idx` or `topk_ids` is out of range")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"`topk_ids` names an expert twice: {chosen}")
        log.tokens.setdefault(layer, []).append(token)
        log.experts.setdefault(layer, []).append(chosen)


def _aligned(log: _Log) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64]]:
    """The layers, and the number [N] and experts [N, L, K] of each token."""
    layers = sorted(log.experts)
    if not layers:
        raise ValueError("it has no routed tokens")
    first = layers[0]
    for layer in layers:
        if log.tokens[layer] != log.tokens[first]:
            raise ValueError(f"layers {first} and {layer} have different tokens; the log may be truncated")
    if len({len(chosen) for layer in layers for chosen in log.experts[layer]}) > 1:
        raise ValueError("its tokens have different numbers of experts")
    expert_NLK = np.stack([np.array(log.experts[layer], dtype=np.int64) for layer in layers], axis=1)
    return layers, np.array(log.tokens[first], dtype=np.int64), expert_NLK


def _dummy_tokens(expert_NLK: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [N]: True for rows in runs of the same choice that are longer than in any text."""
    changes_N = np.concatenate([[True], (expert_NLK[1:] != expert_NLK[:-1]).any(axis=(1, 2))])
    run_N = np.cumsum(changes_N) - 1
    return np.bincount(run_N)[run_N] >= DUMMY_RUN
