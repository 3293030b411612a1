"""The sweep file, and the cells that it describes."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from penstock.hooks.config import Schema, read_config, validate
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import RunConfig, load_run_config

Settings = dict[str, Any]
"""Dotted keys of a run config and their values."""


class SweepConfig(Schema):
    """A grid over settings of one run config."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the sweep, and of the folder of its runs and report."""
    config: Path
    """The run config that every cell starts from; a relative path is relative to the sweep file's folder."""
    set: Settings = {}
    """Settings shared by every cell, such as {train.tokens: 300_000}."""
    axes: dict[str, dict[str, Settings]] = Field(min_length=1)
    """The axes to compare. Each axis maps the names of its values to their settings; the cells are all combinations."""
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Seeds; every cell is trained once with each. All runs have the same data split, and runs of one seed the same
    data order and initial random numbers."""
    baseline: str | None = None
    """The cell that the others are compared with, such as "softmax, switch"; the first cell if empty."""
    flops_tolerance: float = Field(default=0.02, ge=0)
    """Largest allowed relative difference of the cells' active FLOPs per token. Unequal cells are refused, because a
    better cell might only be larger."""

    @model_validator(mode="after")
    def _is_a_grid(self) -> SweepConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds}: each seed may appear only once")
        empty = [name for name, values in self.axes.items() if not values]
        if empty:
            raise ValueError(f"axis '{empty[0]}' has no values")
        if self.baseline is not None and self.baseline not in self.cell_names():
            raise ValueError(f"baseline '{self.baseline}' is not a cell; the cells are {'; '.join(self.cell_names())}")
        return self

    def cell_names(self) -> list[str]:
        return [", ".join(names) for names in itertools.product(*self.axes.values())]


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of the grid, with its name and the run config of each seed."""

    name: str
    overrides: tuple[str, ...]
    configs: dict[int, RunConfig]

    def arguments(self, seed: int) -> list[str]:
        """The overrides that make the base config this cell's for one seed."""
        return [*self.overrides, f"seed={seed}"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep file with all cells validated."""

    settings: SweepConfig
    config_file: Path
    cells: tuple[Cell, ...]

    @property
    def baseline(self) -> str:
        return self.settings.baseline or self.cells[0].name


def load_sweep(path: Path, registry: Registry) -> Sweep:
    """Reads a sweep file and validates every cell for every seed; raises one `ProblemError` with everything
    that is wrong, each problem with its cell."""
    settings = validate(SweepConfig, read_config(path, ()), registry)
    config_file = settings.config if settings.config.is_absolute() else path.parent / settings.config
    cells, problems = [], []
    for name, parts in zip(settings.cell_names(), itertools.product(*settings.axes.values()), strict=True):
        chosen = [settings.axes[axis][value] for axis, value in zip(settings.axes, parts, strict=True)]
        overrides = tuple(_override(key, value) for patch in (settings.set, *chosen) for key, value in patch.items())
        cell = Cell(name, (*overrides, f"name={settings.name}"), {})
        try:
            for seed in settings.seeds:
                cell.configs[seed] = load_run_config(config_file, cell.arguments(seed), registry)[0]
        except ProblemError as error:
            problems += [
                Problem(found.code, found.what, f"{path}: cell '{name}': {found.where}", found.fix)
                for found in error.problems
            ]
        cells.append(cell)
    if problems:
        raise ProblemError(problems)
    return Sweep(settings, config_file, tuple(cells))


def _override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"  # JSON is YAML
