"""Measures what only trained models show, one finalist after the other, once all training has ended.

Each is measured in a worker of its own, because the peak memory is that of a process. What is found is reported and
decides nothing, since times differ from one measurement to the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.hooks.contracts.launching import Job, Launcher
from penstock.run.records.sweep import MeasuredRun
from penstock.sweep.config import SweepConfig
from penstock.sweep.controller import Controller
from penstock.sweep.objectives import measured_alone
from penstock.sweep.trials import Trial

MEASURE = "penstock.sweep.measure:measure_job"
PHASES = ("all", "final")
"""Phases whose runs are measured."""


def measures(settings: SweepConfig) -> bool:
    """Whether the sweep measures trained models: with phases, tasks, or an objective that asks for it."""
    return bool(settings.phases or settings.tasks or any(map(measured_alone, settings.objectives)))


def asked_tasks(settings: SweepConfig) -> list[dict[str, Any]]:
    """The tasks as a config writes them."""
    return settings.model_dump(mode="json", include={"tasks"})["tasks"]


def measure_finalists(walk: Controller, logs: Path) -> bool:
    """Measures the first run of each finished cell that has no file of it, or one without some task. Returns whether
    all are measured; a warning says why one is not."""
    settings = walk.sweep.settings
    if not measures(settings):
        return True
    tasks, complete = asked_tasks(settings), True
    choice = settings.launcher or walk.registry.choose("launcher", {"use": "local", "workers": 1})
    launcher: Launcher = choice.build(folder=logs)
    for trial, run in _finished(walk):
        kept = trial.files.measured()
        if kept is not None and all(json.dumps(task, sort_keys=True) in kept.asked for task in tasks):
            continue
        output.note(f"{trial.cell.name}: measured alone")
        argument = {"run": str(run), "tasks": tasks, "selection": asdict(walk.registry.selection)}
        (outcome,) = launcher.run(MEASURE, [Job(trial.name, argument)])
        if outcome.value is None:
            output.warn(f"{trial.cell.name} was not measured: {outcome.reason}")
            complete = False
        else:
            trial.files.write_measured(MeasuredRun.from_json(outcome.value))
    return complete


def _finished(walk: Controller) -> Iterator[tuple[Trial, Path]]:
    """The run of the first seed of each cell that was trained to its end."""
    first = walk.sweep.settings.seeds[0]
    for trial in walk.trials:
        ended = trial.files.result(trial.phase.tokens(trial.cell)) is not None
        run = trial.files.run(walk.files.folder)
        if trial.phase.name in PHASES and trial.seed == first and ended and run is not None:
            yield trial, run
