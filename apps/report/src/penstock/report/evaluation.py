"""The page of one evaluation: an `evaluation.json`, or a file of `penstock evaluate --samples`."""

from __future__ import annotations

from pathlib import Path

from penstock.hooks.problems import Problem, ProblemError
from penstock.pages.formats import duration
from penstock.pages.page import write_page
from penstock.report.answers import against_rows, task_views
from penstock.report.plausible import plausible
from penstock.run.records.evaluation import NO_EVALUATION, Evaluation, read_evaluation

TEMPLATE = Path(__file__).with_name("evaluation.html.j2")


def write_evaluation(path: Path, out: Path) -> Path:
    """Atomically writes the page about the evaluation in a file to `out`. Raises `ProblemError` for a file that holds
    none; values that cannot be are left out, and the page says so."""
    problems: list[Problem] = []
    found = plausible(read_evaluation(path), str(path), problems)
    if found is None or not found.tasks:
        problem = Problem("damaged-file", "not an evaluation", str(path), NO_EVALUATION)
        raise ProblemError(problem)
    return write_page(
        TEMPLATE,
        out,
        title=found.checkpoint or path.stem,
        lead=_lead(found),
        evaluation=found,
        against=against_rows(found.against) if found.against else [],
        tasks=task_views(found, "evaluation"),
        problems=problems,
    )


def _lead(found: Evaluation) -> str:
    spent = f", in {duration(found.seconds)}" if found.seconds else ""
    number = len(found.tasks)
    names = ", ".join(found.tasks)
    return f"{number} {'task' if number == 1 else 'tasks'} ({names}){spent}."
