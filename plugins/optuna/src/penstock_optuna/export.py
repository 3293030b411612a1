"""A sweep as a study of Optuna in a journal file, for its plots, importances and samplers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from penstock.hooks.problems import Problem, ProblemError
from penstock.sweep.objectives import objective_of
from penstock.sweep.stored import CellFigures, SweepFigures

STATES = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL}
"""Of the cells that have ended; those that were stopped or capped are pruned, and others are left out."""
ENDED = ("finished", "failed", "stopped", "capped")


def export_study(figures: SweepFigures, name: str, journal: Path) -> Study:
    """Writes a study with a trial for each cell that has ended. Its parameters are the names of the cell's values on
    the axes, its values the sweep's objectives, its intermediate values (with one objective) the means over seeds at
    the rungs of its last phase; the study's attribute `objectives` names the values. A cell without one of the
    objectives is a failed trial. Raises `ProblemError` if the file exists."""
    if journal.exists():
        raise ProblemError(Problem("file-not-ours", "the file exists", str(journal), "choose another, or move it away"))
    objectives = figures.objectives or {"bits_per_byte": "minimize"}
    axes: dict[str, dict[str, None]] = {}
    for cell in figures.cells:
        for axis, value in cell.settings.items():
            axes.setdefault(axis, {})[value] = None
    directions = [StudyDirection[way.upper()] for way in objectives.values()]
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    study.set_user_attr("objectives", list(objectives))
    distributions = {axis: CategoricalDistribution(list(values)) for axis, values in axes.items()}
    ended = [cell for cell in figures.cells if cell.state in ENDED]
    study.add_trials([_trial(figures, cell, objectives, distributions) for cell in ended])
    return study


def _trial(
    figures: SweepFigures,
    cell: CellFigures,
    objectives: dict[str, str],
    distributions: dict[str, CategoricalDistribution],
) -> FrozenTrial:
    values = [objective_of(cell, name) for name in objectives]
    whole = [value for value in values if value is not None and math.isfinite(value)]
    state = STATES.get(cell.state, TrialState.PRUNED)
    if state == TrialState.COMPLETE and len(whole) < len(values):
        state = TrialState.FAIL
    told: dict[str, Any] = {
        "cell": cell.cell,
        "key": cell.key,
        "state": cell.state,
        "reason": cell.reason,
        "phase": cell.phase,
        "seeds": cell.seeds,
        "tokens": cell.tokens,
        "parameters": cell.parameters,
        "overrides": list(cell.overrides),
    }
    return create_trial(
        state=state,
        values=whole if state == TrialState.COMPLETE else None,
        params=dict(cell.settings),
        distributions={axis: distributions[axis] for axis in cell.settings},
        user_attrs=told,
        intermediate_values=_at_rungs(figures, cell) if list(objectives) == ["bits_per_byte"] else None,
    )


def _at_rungs(figures: SweepFigures, cell: CellFigures) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for result in figures.rungs:
        if (result.cell, result.phase) == (cell.cell, cell.phase):
            found.setdefault(result.tokens, []).append(result.bits_per_byte)
    return {tokens: sum(values) / len(values) for tokens, values in sorted(found.items())}
