"""What `penstock simulate` predicts: all-to-all time of a trace on a network, for several degrees of parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.hooks.trace import RoutingTrace
from penstock.netsim.simulate import simulate


def find_trace(path: Path) -> Path:
    """A trace file, or the held-out (else the training) trace of a run directory."""
    if not path.is_dir():
        return path
    found = [path / "trace" / f"{split}.npz" for split in ("heldout", "train")]
    return next((trace for trace in found if trace.exists()), found[0])


def simulate_trace(
    path: Path,
    topology: Choice,
    placement: Choice,
    *,
    gpus: Sequence[int],
    tokens_per_gpu: int,
    hidden_size: int | None,
) -> dict[str, Any]:
    """The contents of `simulation.json`."""
    trace = RoutingTrace.load(path)
    width = hidden_size or trace.header.get("hidden_size")
    if width is None:
        raise ProblemError(
            Problem("missing-value", "the trace does not say how wide a token is", str(path), "add --hidden-size")
        )
    if isinstance(trace.header.get("k"), list):
        what = f"its layers take different numbers of experts a token, {trace.header['k']}"
        raise ProblemError(Problem("bad-trace", what, str(path), "profile a model with one k"))
    if "k" not in trace.header:
        what = "the trace does not say k, the experts a token"
        raise ProblemError(Problem("bad-trace", what, str(path), "`penstock profile RUN` writes one that does"))
    rows = simulate(
        trace, topology.build(), placement.build(), gpus=gpus, hidden_size=width, tokens_per_gpu=tokens_per_gpu
    )
    return {
        "topology": topology.entry.component.name,
        "hardware": getattr(topology.settings, "hardware", None),
        "placement": placement.entry.component.name,
        "trace": path.name,
        "hidden_size": width,
        "tokens_per_gpu": tokens_per_gpu,
        "k": trace.header["k"],
        "rows": [_row(row) for row in rows],
    }


def _row(row: Any) -> dict[str, Any]:
    return {
        "gpus": row.gpus,
        "nodes": row.nodes,
        "dispatch_seconds": row.dispatch.mean,
        "combine_seconds": row.combine.mean,
        "mean_seconds": row.dispatch.mean + row.combine.mean,
        "p50_seconds": row.dispatch.p50 + row.combine.p50,
        "p99_seconds": row.dispatch.p99 + row.combine.p99,
        "max_seconds": row.dispatch.max + row.combine.max,
        "balanced_seconds": row.balanced_seconds,
        "slowdown": row.slowdown,
        "bytes_between_nodes": row.bytes_between_nodes,
        "worst_layer": row.worst_layer,
    }
