"""Begins a run with the steps that a shorter one has trained already: its trunk.

Two runs that differ only in length are the same, bit for bit, as long as their schedules give the same factors: the
batch of a step follows from the seed and the step alone. With `wsd` and a warm-up in tokens that is so until the
shorter one begins to decay. Its checkpoint of that step is kept in `trunk/`, apart from those that newer ones replace.
A longer run starts with a copy of it in its own `checkpoints/`, and continues as if it had been interrupted there.
"""

from __future__ import annotations

import json
import shutil
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.hooks.architecture import SharingSettings, architecture_settings
from penstock.hooks.atomic import publish, sync_files
from penstock.hooks.config import OnResume
from penstock.hooks.contracts import TrunkSchedule
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.records.origin import Fork
from penstock.run.records.record import write_record
from penstock.train.checkpoint import MANIFEST, Checkpoint, checkpoint_path, sha256, unpublished, verify_checkpoint
from penstock.train.compose import compose_schedule
from penstock.train.resume import change_rule, changes

TRUNK = "trunk"
RECORD = "fork.json"
MAY_DIFFER = ("name", "train.tokens", "train.schedule")
"""Settings that a fork may change, besides those that a resumed run may. What they do to the factors is compared."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The run and the checkpoint that another run begins with."""

    run: RunDirectory
    checkpoint: Checkpoint


def steps_of_trunk(config: RunConfig) -> int | None:
    """Steps of a run before its schedule decays; None if it has no trunk, or nothing after it."""
    schedule, steps = compose_schedule(config), config.steps
    if not isinstance(schedule, TrunkSchedule):
        return None
    trunk = bisect_left(range(steps), True, key=lambda step: not schedule.in_trunk((step + 0.5) / steps))
    return trunk if 0 < trunk < steps else None


def steps_alike(first: RunConfig, second: RunConfig) -> int:
    """How many steps at the beginning of both runs have the same factor on the learning rate, bit for bit."""
    one, other = compose_schedule(first), compose_schedule(second)
    shorter = min(first.steps, second.steps)
    unlike = (n for n in range(shorter) if one((n + 0.5) / first.steps) != other((n + 0.5) / second.steps))
    return next(unlike, shorter)


def find_origin(config: RunConfig, path: Path, registry: Registry) -> Origin:
    """The newest checkpoint of the run at `path` that a run of `config` would reach as well. Raises `ProblemError` with
    every setting that differs, or if the run has no checkpoint before the two part."""
    run = RunDirectory.open(path)
    if problems := [*_unlike(run, config)]:
        raise ProblemError(problems)
    before = run.config(registry)
    alike = steps_alike(before, config)
    within = [step for step in _steps(run) if step <= alike and step < config.steps]
    if not within:
        raise ProblemError(_no_trunk(run, before, config, alike))
    return Origin(run, verify_checkpoint(_folder(run, within[-1])))


def begin_from(origin: Origin, run: RunDirectory) -> None:
    """Copies the checkpoint into a run that has none, with the metrics and the trace up to it."""
    if any(run.checkpoints.glob("step-*")):
        return
    source, step = origin.checkpoint, origin.checkpoint.step
    for name in ("metrics.jsonl", "trace/train.npz"):  # the run drops what comes after the step when it continues
        if (origin.run.path / name).exists():
            (run.path / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(origin.run.path / name, run.path / name)
    write_record(run.path / RECORD, Fork(str(origin.run.path.resolve()), step, sha256(source.path / MANIFEST)))
    path = checkpoint_path(run.checkpoints, step)
    temporary = unpublished(path)
    shutil.copytree(source.path, temporary, dirs_exist_ok=True)
    for folder in filter(Path.is_dir, temporary.iterdir()):
        sync_files(folder)
    publish(temporary, path)
    messages.note(f"begins with the first {step} steps of {origin.run.path}")


def _unlike(run: RunDirectory, config: RunConfig) -> Iterator[Problem]:
    """What makes the steps of the two runs differ, whatever their schedules."""
    for change in changes(run, config):
        if change.rule is not OnResume.FREE and not change.path.startswith(MAY_DIFFER):
            fix = "undo the change, or train without --fork"
            yield Problem("cannot-fork", str(change), str(run.path), fix)
    for path in _changed_on_the_way(run, config):
        what = f"the run was continued with another {path}, so its steps are not those of its config"
        yield Problem("cannot-fork", what, str(run.path), "train without --fork")
    for index, choice in enumerate(architecture_settings(config.model).sharing):
        if isinstance(choice.settings, SharingSettings) and choice.settings.shares_while_training:
            what = f"'{choice.entry.component.name}' follows the trained share of the run, whose length differs"
            yield Problem("cannot-fork", what, f"model.sharing.{index}", "train without --fork")


def _changed_on_the_way(run: RunDirectory, config: RunConfig) -> list[str]:
    """Settings that decide the bits of the run and were changed when it was resumed."""
    record = run.path / "resumes.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    changed = {path: None for line in lines for path in json.loads(line)["config"]}
    return [path for path in changed if change_rule(type(config), tuple(path.split("."))) is not OnResume.FREE]


def _steps(run: RunDirectory) -> list[int]:
    """Steps of the run's checkpoints, ascending."""
    folders = [*run.checkpoints.glob("step-*"), *(run.path / TRUNK).glob("step-*")]
    return sorted({Checkpoint(folder).step for folder in folders})


def _folder(run: RunDirectory, step: int) -> Path:
    kept = checkpoint_path(run.path / TRUNK, step)
    return kept if kept.exists() else checkpoint_path(run.checkpoints, step)


def _no_trunk(run: RunDirectory, before: RunConfig, config: RunConfig, alike: int) -> Problem:
    if alike == 0:
        what = "its schedule gives another learning rate from the first step on"
        fix = "give both runs `schedule: {use: wsd, warmup_tokens: N}` with the same N, or train without --fork"
    else:
        there = ", ".join(map(str, _steps(run))) or "none"
        what = f"it has no checkpoint of the first {alike} steps, which both have in common (it has: {there})"
        trunk = steps_of_trunk(before)
        late = trunk is not None and trunk <= alike and run.status().state != "finished"
        fix = "train it first" if late else "train without --fork, or give both the same warm-up and a later decay"
    return Problem("no-trunk", what, str(run.path), fix)
