"""The size of each cell's model: counted once on the meta device, and kept."""

from __future__ import annotations

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.config import RunConfig
from penstock.run.records.sweep import CellShape
from penstock.sweep.files import SweepFiles
from penstock.sweep.grid import Sweep
from penstock.sweep.objectives import exact_figure, is_exact

TABLES = (ParameterRole.EMBEDDING, ParameterRole.HEAD)


def shapes_of(sweep: Sweep, files: SweepFiles) -> dict[str, CellShape]:
    """The shape of each cell by name, from its file or else from its model. Nothing is written."""
    kept = {cell.name: files.shape(cell.key) for cell in sweep.cells}
    return {cell.name: kept[cell.name] or shape_of(cell.config, cell.vocabulary) for cell in sweep.cells}


def write_shapes(sweep: Sweep, files: SweepFiles, shapes: dict[str, CellShape]) -> None:
    """Keeps the shapes that have no file."""
    for cell in sweep.cells:
        if files.shape(cell.key) is None:
            files.write_shape(cell.key, shapes[cell.name])


def shape_of(config: RunConfig, vocabulary: int | None = None) -> CellShape:
    """`vocabulary` is that of the prepared data, None where it is not known yet."""
    from penstock.train.compose import (  # torch: a sweep whose shapes are known does without
        active_parameters,
        compose_model,
        parameter_summary,
        planned_vocabulary,
        size_table,
    )
    from penstock.train.flops import flops_of_training

    composition = compose_model(config, vocabulary or planned_vocabulary(config), "meta")
    counts = parameter_summary(composition)
    return CellShape(
        parameters=counts.total,
        active_parameters=active_parameters(composition),
        embedding_share=sum(counts.by_role.get(role, 0) for role in TABLES) / counts.total,
        bytes={size.format: float(size.bytes) for size in size_table(composition)},
        flops_per_token=flops_of_training(config, composition),
    )


def costs_of(sweep: Sweep, shapes: dict[str, CellShape]) -> dict[str, tuple[float, ...]]:
    """The exact objectives of each cell besides quality, by name, smaller being better. What a run measures, such as
    latency, is not among them: it would be another number the next time. Raises `ProblemError` for a format of bytes
    that a cell does not have."""
    exact = {name: way for name, way in sweep.settings.objectives.items() if is_exact(name)}
    problems = [
        Problem("bad-value", f"cell '{cell}' has no figure of this name", f"objectives.{name}")
        for name in exact
        for cell, shape in shapes.items()
        if exact_figure(shape, name) is None
    ]
    if problems:
        raise ProblemError(problems[:1])
    return {
        cell: tuple(
            (-1 if way == "maximize" else 1) * (exact_figure(shape, name) or 0.0) for name, way in exact.items()
        )
        for cell, shape in shapes.items()
    }


def require_equal_flops(sweep: Sweep, shapes: dict[str, CellShape]) -> None:
    """Raises `ProblemError` if cells differ in FLOPs of training per token by more than the sweep allows."""
    settings = sweep.settings
    if settings.phases is not None or settings.rank_at:
        return
    base, allowed = shapes[sweep.baseline.name].flops_per_token, settings.flops_tolerance
    problems = [
        Problem(
            "unequal-flops",
            f"cell '{name}' takes {flops:,} FLOPs per token, {flops / base - 1:+.1%} from the baseline's {base:,}",
            "axes",
            "make the cells equal in FLOPs, raise flops_tolerance, or say what the report ranks at with rank_at",
        )
        for name, flops in ((name, shape.flops_per_token) for name, shape in shapes.items())
        if abs(flops / base - 1) > allowed
    ]
    if problems:
        raise ProblemError(problems)
