"""The figures of a cell that a sweep can optimize, by name."""

from __future__ import annotations

from penstock.run.records.sweep import CellFigures

FIGURES = (
    "bits_per_byte",
    "parameters",
    "active_parameters",
    "embedding_share",
    "flops_per_token",
    "latency_128",
    "latency_512",
    "tokens_per_second",
    "peak_memory",
    "max_violation",
)
OF_NAMES = ("bytes", "tasks")
"""Figures that a name follows after a dot, such as `bytes.ternary` and `tasks.hellaswag.accuracy`."""
MEASURED_TIMES = frozenset({"latency_128", "latency_512", "tokens_per_second", "peak_memory"})
"""Figures that differ when they are measured again. They are reported, and decide nothing."""


def measured_alone(name: str) -> bool:
    """Whether the figure is measured on a trained model (see `penstock.sweep.measure`)."""
    return name in MEASURED_TIMES or name.startswith("tasks.")


def is_objective(name: str) -> bool:
    kind, _, rest = name.partition(".")
    return bool(rest) if kind in OF_NAMES else name in FIGURES


def objective_of(cell: CellFigures, name: str) -> float | None:
    """The value of an objective; None if the cell was not measured so.

    >>> cell = CellFigures("a", 1, 1.5, None, None, None, None, None, 7, None, bytes={"int8": 9.0})
    >>> [objective_of(cell, name) for name in ("bits_per_byte", "bytes.int8", "latency_128")]
    [1.5, 9.0, None]
    """
    kind, _, rest = name.partition(".")
    return getattr(cell, kind).get(rest) if kind in OF_NAMES else getattr(cell, name)
