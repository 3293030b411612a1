"""The cells that a sweep file describes."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.hooks.config import read_config, validate
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import RunConfig, load_run_config
from penstock.sweep.config import SweepConfig


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
