"""The cells that a sweep file describes."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.hooks.config import ConfigDocument, OnResume, read_config, validate
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import RunConfig, load_run_config
from penstock.run.plugin_lock import Locked, choices, content_hash
from penstock.sweep.config import SweepConfig
from penstock.train.resume import marked_leaves

OVERRIDE = re.compile(r"command line, override (\d+)(.*)", re.DOTALL)
SHOWN = 12  # hex digits of a key, the name of the cell's folder


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of the grid. `settings` has the name of its value on each axis, `configs` the run config of each
    seed, and `key` is a hash of all that its results depend on, except the seed. `data` is a hash of its prepared data
    and `vocabulary` the number of its tokens, once they are known: see `penstock.sweep.data`."""

    name: str
    settings: dict[str, str]
    overrides: tuple[str, ...]
    configs: dict[int, RunConfig]
    key: str
    data: str | None = None
    vocabulary: int | None = None

    def arguments(self, seed: int) -> list[str]:
        """The overrides that make the base config this cell's for one seed."""
        return [*self.overrides, f"seed={seed}"]

    @property
    def config(self) -> RunConfig:
        """The run config of the first seed."""
        return next(iter(self.configs.values()))


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep file with all cells validated. `code` has the hash of the code of each component that a cell uses, and
    `written` knows the lines of the file."""

    settings: SweepConfig
    config_file: Path
    cells: tuple[Cell, ...]
    code: dict[str, str]
    written: ConfigDocument

    def where(self, *path: str | int) -> str:
        """The line and the path of a setting, as an error shows it."""
        return self.written.where(path)

    @property
    def baseline(self) -> Cell:
        name = self.settings.baseline
        return next((cell for cell in self.cells if cell.name == name), self.cells[0])


def load_sweep(path: Path, registry: Registry) -> Sweep:
    """Reads a sweep file and validates every cell; raises one `ProblemError` with everything that is wrong, each
    problem with its cell. No cell may be another one with a different name."""
    document = read_config(path)
    settings = validate(SweepConfig, document, registry)
    config_file = settings.config if settings.config.is_absolute() else path.parent / settings.config
    written = read_config(config_file)
    cells: list[Cell] = []
    problems: list[Problem] = []
    of_cells: dict[tuple[str, Problem, str], list[str]] = {}
    code: dict[str, str] = {}
    for name, parts in zip(settings.cell_names(), itertools.product(*settings.axes.values()), strict=True):
        chosen = [settings.axes[axis][value] for axis, value in zip(settings.axes, parts, strict=True)]
        axes = dict(zip(settings.axes, parts, strict=True))
        at = [("set",), *(("axes", axis, value) for axis, value in axes.items())]
        given = list(zip(at, (settings.set, *chosen), strict=True))
        patches = [override(key, value) for _, patch in given for key, value in patch.items()]
        overrides = (*patches, f"name={settings.name}")
        places = [*((*at, key) for at, patch in given for key in patch), ("name",), ("seeds", 0)]
        try:
            config = load_run_config(written, [*overrides, f"seed={settings.seeds[0]}"], registry)[0]
        except ProblemError as error:
            for found in error.problems:
                before, after = _around(found, places, document)
                of_cells.setdefault((before, found, after), []).append(name)
            continue
        configs = {seed: config.model_copy(update={"seed": seed}) for seed in settings.seeds}
        cells.append(Cell(name, axes, overrides, configs, key_of(config, code)))
    for (before, found, after), names in of_cells.items():
        problems.append(replace(found, where=f"{before}{_named(names)}{after}"))
    problems += [
        *_equal_cells(cells, document),
        *_unlike_tokenizers(settings, cells, document),
        *_unlike_texts(settings, cells, document),
        *_without_experts(settings, cells, document),
    ]
    if problems:
        raise ProblemError(problems)
    if settings.stop is not None:  # other code may decide otherwise
        target = settings.stop.entry.component.target
        code[target] = content_hash(target)
    return Sweep(settings, config_file, tuple(cells), code, document)


def _around(found: Problem, places: Sequence[tuple[str | int, ...]], document: ConfigDocument) -> tuple[str, str]:
    """What stands before and after the cell where a problem of its config is. What an override brought in stands in the
    sweep file, at the place of `places`."""
    if match := OVERRIDE.match(found.where):
        return f"{document.where(places[int(match[1]) - 1])}: ", match[2]
    return "", f": {found.where}"


def _named(cells: Sequence[str]) -> str:
    """
    >>> _named(["a"]), _named(["a", "b", "c"])
    ("cell 'a'", "cell 'a' and 2 more")
    """
    return f"cell '{cells[0]}'" + (f" and {len(cells) - 1} more" if len(cells) > 1 else "")


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


def _equal_cells(cells: Sequence[Cell], document: ConfigDocument) -> list[Problem]:
    """A problem for each cell that would train the same model as an earlier one: it would count twice."""
    first: dict[str, str] = {}
    problems: list[Problem] = []
    for cell in cells:
        if cell.key in first:
            what = f"cells '{first[cell.key]}' and '{cell.name}' are equal: their settings make the same runs"
            fix = "remove one, or change its settings"
            problems.append(Problem("equal-cells", what, document.where(("axes",)), fix))
        first.setdefault(cell.key, cell.name)
    return problems


def _unlike_tokenizers(settings: SweepConfig, cells: Sequence[Cell], document: ConfigDocument) -> list[Problem]:
    """A problem if the cells have several tokenizers, and the rule compares what only cells of one have."""
    component = settings.stop.entry.component if settings.stop else None
    if component is None or "any-tokenizer" in component.capabilities:
        return []
    first = cells[0] if cells else None
    for cell in cells:
        if first is not None and cell.config.data.tokenizer != first.config.data.tokenizer:
            what = f"stop rule '{component.name}' needs one tokenizer, but '{first.name}' and '{cell.name}' have two"
            fix = "use stop: paired, which compares bits per byte, or one tokenizer"
            return [Problem("unlike-tokenizers", what, document.where(("stop",)), fix)]
    return []


def _unlike_texts(settings: SweepConfig, cells: Sequence[Cell], document: ConfigDocument) -> list[Problem]:
    """A problem if cells are measured on different held-out texts, and bits per byte compare them. Sweeps of data have
    other objectives, such as scores of tasks."""
    decided = settings.phases is not None or settings.stop is not None or settings.confirm is not None
    if not decided and "bits_per_byte" not in settings.objectives:
        return []
    own = {"tokenizer", "sequence_length"}  # which leave the text as it is
    texts = [cell.config.data.model_dump(mode="json", exclude=own) for cell in cells]
    for cell, text in zip(cells, texts, strict=True):
        if text != texts[0]:
            names = ", ".join(f"data.{name}" for name in text if text[name] != texts[0][name])
            what = f"cells '{cells[0].name}' and '{cell.name}' have other held-out texts, since they differ in {names}"
            fix = "give all cells one corpus and one split, or objectives without bits_per_byte and no phases"
            return [Problem("other-data", what, document.where(("axes",)), fix)]
    return []


def _without_experts(settings: SweepConfig, cells: Sequence[Cell], document: ConfigDocument) -> list[Problem]:
    """A problem if the balance of experts is an objective, and the model of a cell is dense."""
    if "max_violation" not in settings.objectives:
        return []
    for cell in cells:
        model = cell.config.model.settings
        if getattr(model, "n_routed_experts", 1) == 0 or (model.router is None and not model.overrides):
            what = f"the model of cell '{cell.name}' is dense, so no load of experts is measured"
            return [Problem("bad-value", what, document.where(("objectives", "max_violation")))]
    return []


def override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"  # JSON is YAML
