"""What is checked of every row before the first one is trained: models are built on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from penstock.compress.plan import Plan, PlannedRow
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run import checks
from penstock.train.artifact import Unfilled
from penstock.train.checks import Planned, require_for_start
from penstock.train.compose import Composition
from penstock.train.ranks import require_one_process


def require_possible(plan: Plan, runs: Path) -> dict[str, Composition]:
    """The model of each row; raises one `ProblemError` with everything that stands in the way of a row."""
    built: dict[str, Composition] = {}
    problems: dict[Problem, None] = {}
    code = ExitCode.USAGE
    for row in plan.rows:
        planned = Planned(row.config, runs)
        try:
            with Unfilled():
                require_one_process(row.config.train)
                require_for_start(planned, row.document)
                _require_same_state(row, planned.composition, built)
            built[row.name] = planned.composition
        except ProblemError as error:
            code = max(code, error.exit_code)
            for problem in error.problems:
                located = checks.located(problem, row.document)
                problems[_named(located, row)] = None
    if problems:
        raise ProblemError(list(problems), code)
    return built


def _require_same_state(row: PlannedRow, composition: Composition, built: Mapping[str, Composition]) -> None:
    """A row that is not trained keeps what the row with its weights was trained with."""
    if row.trained or row.weights not in built:
        return
    before, now = (set(each.added_state()) for each in (built[row.weights], composition))
    if before != now:
        what = f"a quantizer of '{row.name}' keeps tensors that '{row.weights}' was not trained with"
        fix = "write `train: true`, or take a quantizer that learns nothing"
        raise ProblemError(Problem("bad-value", what, "model.quantizer", fix))


def _named(problem: Problem, row: PlannedRow) -> Problem:
    """The problem with the row, unless it has a line of the plan or of the run's config."""
    plan, _, _ = row.document.name.rpartition(": ")
    if problem.where.startswith(f"{plan}:"):
        return problem
    where = f"{plan}: row '{row.name}'" + (f": {problem.where}" if problem.where else "")
    return replace(problem, where=where)
