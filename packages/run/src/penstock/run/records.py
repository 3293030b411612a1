"""What commands write into a run directory, as frozen values: their producers make them, and pages read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """Predicted expert-parallel exchange at one number of GPUs."""

    gpus: int
    mean_seconds: float
    nodes: int | None = None
    dispatch_seconds: float | None = None
    combine_seconds: float | None = None
    p99_seconds: float | None = None
    max_seconds: float | None = None
    balanced_seconds: float | None = None
    slowdown: float | None = None
    bytes_between_nodes: float | None = None
    worst_layer: int | None = None
    load: list[float] | None = None
    step_quantiles: list[float] | None = None
