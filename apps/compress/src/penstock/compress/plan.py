"""A plan on top of a run: the config of every row; imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from penstock.compress.config import CompressionPlan
from penstock.hooks.config import ConfigDocument, Location, read_config, validate
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.run.checks import packing_obstacles
from penstock.run.config import RESOLVED, RunConfig, changed_run_config, digest
from penstock.run.directory import RunDirectory
from penstock.run.records.compression import BASELINE

SUFFIX = "-compress"
"""What the name of a run gets where its model is trained again."""


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row before it is made. `document` is its config, with the line of each value in the plan or in the run's
    config; `weights` is the row whose training made its weights."""

    name: str
    trained: bool
    change: str
    document: ConfigDocument
    config: RunConfig
    exporter: Choice
    weights: str

    def seeded(self, seed: int, registry: Registry) -> tuple[RunConfig, ConfigDocument]:
        """The config of one seed."""
        document = replace(self.document, value={**self.document.value, "seed": seed})
        return changed_run_config(document, registry), document


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan with all rows validated."""

    name: str
    rows: tuple[PlannedRow, ...]

    @property
    def hash(self) -> str:
        """Eight digits of what the rows are, whatever they are called."""
        return digest([[row.trained, row.config.resolved(), row.exporter.arguments()] for row in self.rows])

    def row(self, name: str) -> PlannedRow:
        return next(row for row in self.rows if row.name == name)


def load_plan(path: Path, overrides: Sequence[str], run: RunDirectory, registry: Registry) -> Plan:
    """Reads a plan and validates the config of each of its rows; raises one `ProblemError` with everything that is
    wrong, each problem with its line."""
    written = read_config(path, overrides)
    settings = validate(CompressionPlan, written, registry)
    own = read_config(run.path / RESOLVED)
    own = replace(own, value={**own.value, "name": f"{own.value['name']}{SUFFIX}", "seed": 0})
    own = _in_one_process(own, registry)
    document = _changed(own, ("model",), written, ("baseline",), settings.baseline)
    rows, problems, code = [], list[Problem](), ExitCode.USAGE
    change, trained, export, weights = "", True, dict[str, Any](), BASELINE
    for index, name in enumerate((BASELINE, *(step.name for step in settings.steps))):
        if index > 0:
            step, at = settings.steps[index - 1], ("steps", index - 1)
            document = _changed(document, ("model",), written, (*at, "model"), step.model)
            export = {**export, **step.export}
            change, trained = _told(step.model, step.export), step.train
            weights = name if trained else weights
        named = replace(document, name=f"{path}: {name}")
        try:
            exporter = _exporter(export, written, index, registry)
            config = changed_run_config(named, registry)
            _require_packable(config, named)
            rows.append(PlannedRow(name, trained, change, named, config, exporter, weights))
        except ProblemError as error:
            problems += [_of_row(problem, path, name) for problem in error.problems]
            code = max(code, error.exit_code)
    if not problems:
        problems = _without_effect(rows, written)
    if problems:
        raise ProblemError(list(dict.fromkeys(problems)), code)
    return Plan(settings.name, tuple(rows))


def _in_one_process(document: ConfigDocument, registry: Registry) -> ConfigDocument:
    """The config of a run of several ranks with the engine of one process, which trains the rows."""
    train = document.value.get("train", {})
    engine = registry.choose("engine", train.get("engine", "local"), document.where(("train", "engine")))
    if "several-ranks" not in engine.entry.component.capabilities:
        return document
    return replace(document, value={**document.value, "train": {**train, "engine": "local"}})


def _exporter(settings: Mapping[str, Any], written: ConfigDocument, index: int, registry: Registry) -> Choice:
    where = written.where(("steps", index - 1, "export")) if index else written.name
    return registry.choose("exporter", {"use": "penstock", **settings}, where)


def _require_packable(config: RunConfig, document: ConfigDocument) -> None:
    if problems := packing_obstacles(config):
        raise ProblemError([replace(each, where=document.where(tuple(each.where.split(".")))) for each in problems])


def _of_row(problem: Problem, path: Path, name: str) -> Problem:
    """The problem with the row that has it, unless it has a line of the plan."""
    if problem.where.startswith(f"{path}:"):
        return problem
    return replace(problem, where=f"{path}: row '{name}': {problem.where}")


def _without_effect(rows: Sequence[PlannedRow], written: ConfigDocument) -> list[Problem]:
    """A problem for each row that is what the row before it is."""
    same = [
        index
        for index, (before, row) in enumerate(pairwise(rows))
        if (before.config.resolved(), before.exporter.arguments()) == (row.config.resolved(), row.exporter.arguments())
    ]
    what, fix = "the step changes nothing", "leave it out, or write what it changes"
    return [Problem("bad-value", what, written.where(("steps", index)), fix) for index in same]


def _told(model: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    """What a step changes, as the plan has it, on one line."""
    return ", ".join(f"{name}: {_short(value)}" for name, value in {**model, **export}.items())


def _short(value: Any) -> str:
    """A value without the punctuation of JSON."""
    if isinstance(value, dict):
        name = value.get("use")
        rest = ", ".join(f"{key} {_short(each)}" for key, each in value.items() if key != "use")
        return rest if name is None else f"{name} ({rest})" if rest else str(name)
    if isinstance(value, list):
        return " + ".join(map(_short, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


# -------------------------------------------------------------------------------------------- documents of two files


def _changed(
    document: ConfigDocument, at: Location, written: ConfigDocument, origin: Location, change: Mapping[str, Any]
) -> ConfigDocument:
    """The document with the mapping at `at` merged with one that another document has at `origin`: values keep the
    place where they were written. Neither document is changed."""
    sources = dict(document.sources)
    lines = _Lines(sources, written)
    top = dict(document.value)
    (section,) = at
    top[str(section)] = lines.merged(top[str(section)], change, at, origin)
    return replace(document, value=top, sources=sources)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where values were written: `sources` of the result, which are changed, and of what is merged into it."""

    sources: dict[Location, str]
    written: ConfigDocument

    def merged(self, value: Any, change: Any, at: Location, origin: Location) -> Any:
        if isinstance(value, list) and isinstance(change, list) and change and all(map(_component, change)):
            return self._extended(value, change, at, origin)
        if not isinstance(change, Mapping) or not isinstance(value, Mapping | str) or (len(at) > 1 and "use" in change):
            self._note(at, origin)
            return change
        before = {"use": value} if isinstance(value, str) else dict(value)
        for name, each in change.items():
            before[name] = self.merged(before.get(name), each, (*at, name), (*origin, name))
        return before

    def _extended(self, value: list[Any], change: list[Any], at: Location, origin: Location) -> list[Any]:
        """A component takes the place of one of its name; others come after those that are there."""
        items = list(value)
        for number, each in enumerate(change):
            same = (place for place, item in enumerate(items) if _component(item) == _component(each))
            place = next(same, len(items))
            items[place : place + 1] = [each]
            self._note((*at, place), (*origin, number))
        return items

    def _note(self, at: Location, origin: Location) -> None:
        for location in [location for location in self.sources if location[: len(at)] == at]:
            del self.sources[location]
        inside = {
            (*at, *location[len(origin) :]): source
            for location, source in self.written.sources.items()
            if location[: len(origin)] == origin
        }
        self.sources.update(inside or {at: self.written.where(origin)})


def _component(value: Any) -> str | None:
    """The short name of the component that a value chooses."""
    name = value.get("use") if isinstance(value, Mapping) else value
    return name.rpartition(":")[2] if isinstance(name, str) else None
