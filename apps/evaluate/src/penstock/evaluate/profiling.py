"""What `penstock profile` records: the experts that a model chooses on held-out text, and how even that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from penstock.cli.output import failed
from penstock.evaluate.atlas import load_figures
from penstock.hooks.trace import RoutingTrace
from penstock.routers.load import expert_load, max_violation
from penstock.train.compose import routing_header
from penstock.train.restore import Restored


@torch.inference_mode()
def record_trace(restored: Restored, *, max_tokens: int | None = None) -> RoutingTrace:
    """The trace of the held-out split: one step a batch of the training size, counts and, where every token of every
    layer has the same number of experts, which those are."""
    model, config = restored.model, restored.config
    if not model.routers:
        raise failed("no-experts", "the model has no experts to profile", str(restored.run.path))
    split = restored.dataset.split("heldout")
    length = config.data.sequence_length
    windows = min(len(split), max_tokens or len(split)) // length
    if not windows:
        what = f"{max_tokens} tokens are less than one sequence of {length}"
        raise failed("too-few-tokens", what, "--max-tokens", f"read at least {length}")
    token_WS = torch.from_numpy(split.slice(0, windows * length)).view(windows, length)
    device = next(restored.composition.module.parameters()).device
    header = routing_header(config, restored.composition)
    counts, experts = [], []
    for batch_BS in token_WS.split(config.train.batch_size):
        routings = model(batch_BS.to(device)).routings
        load = expert_load(routings)
        counts.append(load.counts_LE.cpu().numpy())
        every_slot_kept = all(routing.kept_TK is None for routing in routings.values())
        if isinstance(header["k"], int) and every_slot_kept:  # layers or tokens that differ in k have no common array
            experts.append(np.stack([routings[layer].expert_TK.cpu().numpy() for layer in load.layers], axis=1))
    largest = max(router.experts for router in model.routers.values())
    width = np.uint8 if largest <= 256 else np.uint16
    header |= {
        "split": "heldout",
        "layers": list(load.layers),
        "data": restored.dataset.hash,
        "tokenizer": restored.dataset.manifest.tokenizer_sha256,
        "checkpoint": restored.checkpoint.path.name,
        "tokens": int(windows * length),
    }
    expert_NLK = np.concatenate(experts).astype(width) if len(experts) == len(counts) else None
    return RoutingTrace(np.stack(counts), header, expert_NLK)


def profile_figures(trace: RoutingTrace) -> dict[str, Any]:
    """The contents of `profile.json`. `max_violation_global` is the mean over layers of MaxVio of all tokens together,
    `max_violation_batch` that of each batch on its own (arXiv 2408.15664, section 4.1)."""
    layers = load_figures(trace)
    return {
        "split": trace.header["split"],
        "tokens": trace.header["tokens"],
        "k": trace.header["k"],
        "layers": layers,
        "max_violation_global": float(np.mean([layer["max_violation"] for layer in layers])),
        "max_violation_batch": max_violation(torch.from_numpy(trace.counts_SLE)).mean().item(),
    }
