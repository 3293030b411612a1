"""The page of one evaluation: an `evaluation.json`, or a file of `penstock evaluate --samples`."""

from __future__ import annotations

import json
from pathlib import Path

from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError
from penstock.pages.formats import duration
from penstock.pages.page import write_page
from penstock.report.answers import against_rows, task_views
from penstock.report.plausible import plausible
from penstock.run.records.evaluation import Evaluation
from penstock.run.records.record import parse_record

TEMPLATE = Path(__file__).with_name("evaluation.html.j2")


def write_evaluation(path: Path, out: Path) -> Path:
    """Atomically writes the page about the evaluation in a file to `out`. Raises `ProblemError` for a file that holds
    none; values that cannot be are left out, and the page says so."""
    problems: list[Problem] = []
    found = plausible(read_evaluation(path), str(path), problems)
    if found is None or not found.tasks:
        raise ProblemError(_no_evaluation(path))
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


def read_evaluation(path: Path) -> Evaluation:
    """The record in an `evaluation.json`, or in the first line of a file of samples."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            try:
                line = parse_json(first)
            except ValueError:
                line = None
            if isinstance(line, dict) and isinstance(line.get("evaluation"), dict):
                return parse_record(Evaluation, json.dumps(line["evaluation"]).encode(), f"{path}:1")
            return parse_record(Evaluation, first + file.read(), str(path))
    except OSError as error:
        raise ProblemError(Problem("unreadable-file", f"cannot be read ({error.strerror})", str(path))) from error


def _lead(found: Evaluation) -> str:
    spent = f", in {duration(found.seconds)}" if found.seconds else ""
    number = len(found.tasks)
    names = ", ".join(found.tasks)
    return f"{number} {'task' if number == 1 else 'tasks'} ({names}){spent}."


def _no_evaluation(path: Path) -> Problem:
    fix = "give an evaluation.json, or a file of `penstock evaluate --samples`"
    return Problem("damaged-file", "not an evaluation", str(path), fix)
