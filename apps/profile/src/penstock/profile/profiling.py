"""What `penstock profile` records: the experts that a model chooses for text, and how even the load is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from penstock.hooks.problems import Problem, ProblemError
from penstock.profile.atlas import Tables, model_figures
from penstock.profile.subject import Subject
from penstock.routers.load import expert_load
from penstock.run.records.profile import Profile
from penstock.traces.accumulator import TraceAccumulator
from penstock.traces.header import WORD_BITS
from penstock.traces.load import max_violation
from penstock.traces.specialisation import word_information
from penstock.traces.trace import RoutingTrace


@torch.inference_mode()
def record_trace(subject: Subject, progress: Callable[[int], object] = lambda done: None) -> RoutingTrace:
    """The trace of what the subject reads: one step per batch, with its domain if domains are distinguished. It holds
    counts and, if every token in every layer has the same number of experts, the experts themselves. `progress` is
    called with the number of tokens read."""
    model, layers = subject.model, sorted(subject.model.routers)
    recorded = TraceAccumulator(layers, model.routers[layers[0]].experts)
    read, tokens = 0, list[tuple[str, np.ndarray]]()
    for domain, batch_BS in subject.batches():
        routings = model(batch_BS).routings
        if missing := [layer for layer in layers if layer not in routings]:
            what = "the router does not return which experts it chose"
            raise ProblemError(Problem("unreadable-router", what, f"{subject.name}, layer {missing[0]}"))
        every_slot_kept = all(routing.kept_TK is None for routing in routings.values())
        if domain is not None and not every_slot_kept:
            what = "preferences need routers that give every token the same number of experts"
            raise ProblemError(Problem("unsupported", what, "--domains", "profile it without --domains"))
        chosen = [routings[layer].expert_TK.cpu().numpy() for layer in layers] if every_slot_kept else None
        recorded.add(chosen, counts_LE=expert_load(routings).counts_LE.cpu().numpy(), domain=domain)
        if domain is not None:
            tokens.append((domain, batch_BS.cpu().numpy().ravel()))
        read += batch_BS.numel()
        progress(read)
    trace = recorded.trace(**subject.header, tokens=subject.tokens)
    return replace(trace, header={**trace.header, **_word_bits(trace, tokens)}) if tokens else trace


def _word_bits(trace: RoutingTrace, tokens: Sequence[tuple[str, np.ndarray]]) -> dict[str, list[float]]:
    """For each layer, what the words of the domains alone would make of its experts; the trace has no tokens to find it
    out later."""
    names = list(dict.fromkeys(domain for domain, _ in tokens))
    if trace.expert_NLK is None or len(names) < 2:
        return {}
    domain_N = np.concatenate([np.full(len(token_N), names.index(domain)) for domain, token_N in tokens])
    token_N = np.concatenate([token_N for _, token_N in tokens])
    layers, experts = trace.counts_LE.shape
    return {
        WORD_BITS: [word_information(domain_N, token_N, trace.expert_NLK[:, row], experts) for row in range(layers)]
    }


def profile_figures(tables: Tables) -> Profile:
    """What `profile.json` holds."""
    trace = tables.trace
    return replace(
        model_figures(trace.header["model"], tables),
        split=trace.header["split"],
        tokens=trace.header["tokens"],
        max_violation_global=max_violation(trace.counts_LE).mean().item(),
        max_violation_batch=max_violation(trace.counts_SLE).mean().item(),
        data=trace.header.get("data"),
    )
