"""The figures of a cell that a sweep can optimize, by name."""

from __future__ import annotations

from penstock.run.records.sweep import CellFigures, CellShape

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

BETTER = {
    "bits_per_byte": "minimize",
    "flops_per_token": "minimize",
    "latency_128": "minimize",
    "latency_512": "minimize",
    "tokens_per_second": "maximize",
    "peak_memory": "minimize",
    "max_violation": "minimize",
}
"""Figures with one direction that is better, whatever a sweep is for."""
EXACT = frozenset({"parameters", "active_parameters", "embedding_share", "flops_per_token", "bytes"})
"""Figures that follow from the sizes of the model."""


def measured_alone(name: str) -> bool:
    """Whether the figure is measured on a trained model (see `penstock.sweep.measure`)."""
    return name in MEASURED_TIMES or name.startswith("tasks.")


def is_objective(name: str) -> bool:
    kind, _, rest = name.partition(".")
    return bool(rest) if kind in OF_NAMES else name in FIGURES


def is_exact(name: str) -> bool:
    """Whether the size of a cell's model decides the figure, so that rules may read it before any training."""
    return name.partition(".")[0] in EXACT


def exact_figure(shape: CellShape, name: str) -> float | None:
    """The value of an exact objective; None for an unknown format of bytes.

    >>> shape = CellShape(100, 40, 0.25, {"int8": 120.0}, flops_per_token=240)
    >>> [exact_figure(shape, name) for name in ("parameters", "flops_per_token", "bytes.int8", "bytes.fp4")]
    [100, 240, 120.0, None]
    """
    kind, _, rest = name.partition(".")
    return shape.bytes.get(rest) if kind == "bytes" else getattr(shape, name)


def objective_of(cell: CellFigures, name: str) -> float | None:
    """The value of an objective; None if the cell was not measured so.

    >>> cell = CellFigures("a", 1, 1.5, None, None, None, None, None, 7, None, bytes={"int8": 9.0})
    >>> [objective_of(cell, name) for name in ("bits_per_byte", "bytes.int8", "latency_128")]
    [1.5, 9.0, None]
    """
    kind, _, rest = name.partition(".")
    return getattr(cell, kind).get(rest) if kind in OF_NAMES else getattr(cell, name)
