"""Which run to continue, whether it may be continued, and the record of what changed on the way.

Each field of the config declares what a resumed run may do to it (`OnResume`). Any other difference is refused unless
the user allows it, and what was allowed is written to `resumes.jsonl`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.hooks.atomic import read_json, write_json, write_text
from penstock.hooks.config import OnResume, Schema, dump_config, parse_config
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.run import messages
from penstock.run.config import RESOLVED, RunConfig, with_data_seed
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import LOCK, lock_changes, plugin_lock


@dataclass(frozen=True, slots=True)
class Change:
    """A value of the config that changed; None stands for a missing value."""

    path: str
    before: Any
    now: Any
    rule: OnResume | None

    def __str__(self) -> str:
        before, now = ("null" if value is None else value for value in (self.before, self.now))
        return f"{self.path}: was {before}, is {now}"


def changes(run: RunDirectory, config: RunConfig) -> list[Change]:
    """Every value in which `config` differs from the run's. A section that `config` leaves out counts for the settings
    that it marks, which then have their defaults; a section of an app that is not installed does not count. A setting
    that the run's config lacks is newer than the run, which did what its default does, or what `_meant` says."""
    whole, held = config.model_dump(mode="json"), config.held()
    ours = {name: value for name, value in resolved_of(run).items() if name in whole}
    written = config.model_dump(mode="json", exclude_unset=True)
    before = _leaves(ours)
    now = _leaves({name: whole[name] if name in ours else written.get(name, whole[name]) for name in [*held, *ours]})
    before = _meant(before) | before
    found = [
        Change(".".join(path), before.get(path), now.get(path), change_rule(type(config), path))
        for path in sorted({*before, *now})
        if before.get(path) != now.get(path) and (path in before or not _is_default(config, path))
    ]
    found = _without_settings_of_other_components(found)
    return [change for change in found if change.rule is not OnResume.FREE or change.path.split(".")[0] in held]


def _without_settings_of_other_components(found: list[Change]) -> list[Change]:
    """Where a component was replaced, its settings and those of the other do not compare."""
    replaced = [change.path.removesuffix("use") for change in found if change.path.endswith(".use")]
    return [
        change
        for change in found
        if change.path.endswith(".use") or not any(change.path.startswith(each) for each in replaced)
    ]


def _meant(before: dict[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    """What a run did if its config predates the setting, and the setting's default is something else."""
    meant = {
        ("train", "engine", "use"): "penstock-train:local",
        ("train", "objective", "use"): "penstock-train:next-token",
    }
    split = {("train", "optimizer", "split_fused"): False}
    return meant | (split if before.get(("train", "optimizer", "use")) == "penstock-optim-muon:muon" else {})


def resolved_of(run: RunDirectory) -> dict[str, Any]:
    """Every value of the run's config."""
    return with_data_seed(parse_config((run.path / RESOLVED).read_text(encoding="utf-8")).value)


def marked_leaves(config: RunConfig) -> list[tuple[tuple[str, ...], Any, OnResume | None]]:
    """Every value that the config holds, with its path and what a resumed run may do to it."""
    leaves = _leaves(config.resolved())
    return [(path, value, change_rule(type(config), path)) for path, value in leaves.items()]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, (dict, list)) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for name, item in items for key, leaf in _leaves(item, (*path, str(name))).items()}


def _is_default(holder: Any, path: tuple[str, ...]) -> bool:
    """Whether the value that `path` leads to is the one that its schema gives it."""
    holder = holder.settings if isinstance(holder, Choice) else holder
    name, *rest = path
    if isinstance(holder, list):
        return bool(rest) and _is_default(holder[int(name)], tuple(rest))
    if not isinstance(holder, Schema) or name not in type(holder).model_fields:
        return False
    if rest:
        return _is_default(getattr(holder, name), tuple(rest))
    return getattr(holder, name) == type(holder).model_fields[name].get_default(call_default_factory=True)


def change_rule(envelope: type[RunConfig], path: tuple[str, ...]) -> OnResume | None:
    """What a resumed run may do to the value at `path`; anything, if it is an unmarked value of an app's section."""
    mark = _mark(envelope, path)
    return OnResume.FREE if mark is None and path[0] not in RunConfig.model_fields else mark


def _mark(schema: type[Schema], path: tuple[str, ...]) -> OnResume | None:
    """The mark of the field that `path` leads to or through."""
    field = schema.model_fields.get(path[0])
    if field is None:
        return None
    mark = next((mark for mark in field.metadata if isinstance(mark, OnResume)), None)
    if mark is OnResume.SAME_COMPONENT:
        return OnResume.FIXED if path[1:] == ("use",) else None
    if mark is None and isinstance(field.annotation, type) and issubclass(field.annotation, Schema):
        return _mark(field.annotation, path[1:])
    return mark


def find_run(runs: Path, config: RunConfig, which: str, *, allow_config_drift: bool) -> RunDirectory | None:
    """The run that `--resume` names; for "auto", the newest unfinished run that this config may continue."""
    if which != "auto":
        return RunDirectory.open(Path(which))
    for path in sorted((runs / config.name).glob("[!.]*/config.resolved.yaml"), reverse=True):
        run = RunDirectory(path.parent)
        try:
            rules = {change.rule for change in changes(run, config)}
        except (OSError, ProblemError) as error:
            messages.warn(f"skipping {run.path}: {error}")
            continue
        fits = OnResume.FIXED not in rules if allow_config_drift else rules <= {OnResume.FREE}
        if fits and run.status().state != "finished":
            return run
    messages.note("no unfinished run of this config; starting a new one")
    return None


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run to continue, and what has changed since it was started."""

    run: RunDirectory
    config: RunConfig
    changes: list[Change]
    plugins: list[str]

    def record(self, step: int, machine: dict[str, tuple[Any, Any]], checkpoint_drift: Sequence[str]) -> None:
        """Reports and records what differs, once nothing can refuse the run any more. `machine` is the result of
        `record_numerics`, `checkpoint_drift` that of `Trainer.resume`."""
        plugins = list(dict.fromkeys([*self.plugins, *checkpoint_drift]))
        self._say(machine, plugins)
        line = {
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "step": step,
            "argv": sys.argv,
            "config": {change.path: [change.before, change.now] for change in self.changes},
            "plugins": plugins,
            "machine": machine,
        }
        path = self.run.path / "resumes.jsonl"
        written = path.read_text(encoding="utf-8") if path.exists() else ""
        write_text(path, written + json.dumps(line) + "\n")
        if self.changes:
            kept = {**resolved_of(self.run), **self.config.resolved()}  # with sections that this config leaves out
            write_text(self.run.path / RESOLVED, dump_config(kept))
        if self.changes or plugins:
            write_json(self.run.path / LOCK, {"components": plugin_lock(self.config)})

    def _say(self, machine: dict[str, tuple[Any, Any]], plugins: Sequence[str]) -> None:
        free = [str(change) for change in self.changes if change.rule is OnResume.FREE]
        allowed = [str(change) for change in self.changes if change.rule is not OnResume.FREE]
        for line in free:
            messages.note(f"changed: {line}")
        for line in [*allowed, *plugins]:
            messages.warn(f"continuing despite a change: {line}")
        for name, (then, now) in machine.items():
            what = " differs" if "\n" in f"{then}{now}" else f": was {then}, is {now}"
            messages.warn(f"the result may not be bit-identical to an uninterrupted run: {name}{what}")
        losses = [choice.entry.component.name for choice in self.config.model.settings.balance if _sees_the_cut(choice)]
        if losses and any(change.path == "train.micro_batch_size" for change in self.changes):
            messages.note(
                f"balance loss {', '.join(losses)} sees one micro-batch at a time: with another micro-batch size the "
                "run differs from here on by more than rounding"
            )


def check_resume(
    run: RunDirectory, config: RunConfig, *, allow_config_drift: bool, allow_plugin_drift: bool
) -> Resumption:
    """Raises `ProblemError` with every difference that prevents resuming the run."""
    found = changes(run, config)
    plugins = lock_changes(read_json(run.path / LOCK)["components"], plugin_lock(config))
    problems: list[Problem] = []
    for change in found:
        if change.rule is OnResume.FIXED:
            fix = "undo the change, or start a new run: a checkpoint cannot be continued with a different value"
            problems.append(Problem("cannot-continue", str(change), str(run.path), fix))
        elif change.rule is not OnResume.FREE and not allow_config_drift:
            fix = "undo the change, start a new run, or continue anyway with --allow-config-drift"
            problems.append(Problem("config-differs", str(change), str(run.path), fix))
    if not allow_plugin_drift:
        problems += plugin_drift_refused(plugins, run.path).problems
    if problems:
        raise ProblemError(problems)
    return Resumption(run, config, found, plugins)


def plugin_drift_refused(lines: Sequence[str], where: Path) -> ProblemError:
    """The error for a run whose component code has changed."""
    fix = "install the original version, start a new run, or continue anyway with --allow-plugin-drift"
    return ProblemError([Problem("plugin-differs", line, str(where), fix) for line in lines])


def _sees_the_cut(choice: Choice) -> bool:
    """Whether the split of a step into micro-batches changes the component's gradient."""
    if choice.entry.component.kind != "balance-loss" or "additive" in choice.entry.component.capabilities:
        return False
    return getattr(choice.settings, "counts", None) not in ("counts-first", "lagged")
