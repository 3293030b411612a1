"""The cells that a sweep file describes."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.hooks.config import OnResume, read_config, validate
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import RunConfig, load_run_config
from penstock.run.plugin_lock import Locked, choices, content_hash
from penstock.sweep.config import SweepConfig
from penstock.train.resume import marked_leaves

SHOWN = 12  # hex digits of a key, the name of the cell's folder


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of the grid. `settings` has the name of its value on each axis, `configs` the run config of each
    seed, and `key` is a hash of all that its results depend on, except the seed."""

    name: str
    settings: dict[str, str]
    overrides: tuple[str, ...]
    configs: dict[int, RunConfig]
    key: str

    def arguments(self, seed: int) -> list[str]:
        """The overrides that make the base config this cell's for one seed."""
        return [*self.overrides, f"seed={seed}"]

    @property
    def config(self) -> RunConfig:
        """The run config of the first seed."""
        return next(iter(self.configs.values()))


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep file with all cells validated. `code` has the hash of the code of each component that a cell uses."""

    settings: SweepConfig
    config_file: Path
    cells: tuple[Cell, ...]
    code: dict[str, str]

    @property
    def baseline(self) -> Cell:
        name = self.settings.baseline
        return next((cell for cell in self.cells if cell.name == name), self.cells[0])


def load_sweep(path: Path, registry: Registry) -> Sweep:
    """Reads a sweep file and validates every cell; raises one `ProblemError` with everything that is wrong, each
    problem with its cell. No cell may be another one with a different name."""
    settings = validate(SweepConfig, read_config(path, ()), registry)
    config_file = settings.config if settings.config.is_absolute() else path.parent / settings.config
    written = read_config(config_file)
    cells: list[Cell] = []
    problems: list[Problem] = []
    code: dict[str, str] = {}
    for name, parts in zip(settings.cell_names(), itertools.product(*settings.axes.values()), strict=True):
        chosen = [settings.axes[axis][value] for axis, value in zip(settings.axes, parts, strict=True)]
        patches = [override(key, value) for patch in (settings.set, *chosen) for key, value in patch.items()]
        overrides = (*patches, f"name={settings.name}")
        try:
            config = load_run_config(written, [*overrides, f"seed={settings.seeds[0]}"], registry)[0]
        except ProblemError as error:
            problems += [
                Problem(found.code, found.what, f"{path}: cell '{name}': {found.where}", found.fix)
                for found in error.problems
            ]
            continue
        configs = {seed: config.model_copy(update={"seed": seed}) for seed in settings.seeds}
        axes = dict(zip(settings.axes, parts, strict=True))
        cells.append(Cell(name, axes, overrides, configs, key_of(config, code)))
    problems += [*_equal_cells(cells, path), *_unlike_tokenizers(settings, cells, path)]
    if problems:
        raise ProblemError(problems)
    if settings.stop is not None:  # other code may decide otherwise
        target = settings.stop.entry.component.target
        code[target] = content_hash(target)
    return Sweep(settings, config_file, tuple(cells), code)


def key_of(config: RunConfig, code: dict[str, str]) -> str:
    """A hash of what the results of a config depend on: its values without the name, the seed and those that change
    nothing but speed, and the code of its components. `code` keeps the hashes of code that were computed."""
    values = {
        ".".join(path): value
        for path, value, mark in marked_leaves(config)
        if mark is not OnResume.FREE and path not in (("name",), ("seed",))
    }
    content = json.dumps([values, _code_of(config, code)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:SHOWN]


def _code_of(config: RunConfig, code: dict[str, str]) -> list[Locked]:
    """As `plugin_lock`, which would read the same files for every cell."""
    found: dict[str, str] = {}
    for choice in choices([getattr(config, name) for name in config.held()]):
        target = choice.entry.component.target
        if target not in code:
            code[target] = content_hash(target)
        found[f"{choice.entry.component.kind}/{choice.entry.id}"] = code[target]
    return [{"component": name, "hash": found[name]} for name in sorted(found)]


def _equal_cells(cells: Sequence[Cell], path: Path) -> list[Problem]:
    """A problem for each cell that would train the same model as an earlier one: it would count twice."""
    first: dict[str, str] = {}
    problems: list[Problem] = []
    for cell in cells:
        if cell.key in first:
            what = f"cells '{first[cell.key]}' and '{cell.name}' are equal: their settings make the same runs"
            problems.append(Problem("equal-cells", what, f"{path}: axes", "remove one, or change its settings"))
        first.setdefault(cell.key, cell.name)
    return problems


def _unlike_tokenizers(settings: SweepConfig, cells: Sequence[Cell], path: Path) -> list[Problem]:
    """A problem if the cells have several tokenizers, and the rule compares what only cells of one have."""
    component = settings.stop.entry.component if settings.stop else None
    if component is None or "any-tokenizer" in component.capabilities:
        return []
    first = cells[0] if cells else None
    for cell in cells:
        if first is not None and cell.config.data.tokenizer != first.config.data.tokenizer:
            what = f"stop rule '{component.name}' needs one tokenizer, but '{first.name}' and '{cell.name}' have two"
            fix = "use stop: paired, which compares bits per byte, or one tokenizer"
            return [Problem("unlike-tokenizers", what, f"{path}: stop", fix)]
    return []


def override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"  # JSON is YAML
