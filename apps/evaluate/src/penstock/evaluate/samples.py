"""The file of `--samples`: JSON lines, first the evaluation, then each item with its prompts, answers and scores."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.runner import Answered, Prepared
from penstock.evaluate.questions import gold_text, prompt_text
from penstock.hooks.atomic import replacing
from penstock.hooks.contracts import (
    Answer,
    GenerateAnswer,
    Likelihood,
    LikelihoodAnswer,
    Request,
    RollingAnswer,
    Tokenizer,
)
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run import messages
from penstock.run.records.evaluation import NO_EVALUATION, Evaluation, evaluation_line, read_evaluation

Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Stored:
    """An evaluation of a file, and the scores [N] of each task's samples by name, where the file has them."""

    path: Path
    evaluation: Evaluation
    scores: Mapping[str, Scores]


def write_samples(path: Path, result: Evaluation, tasks: Mapping[str, Prepared], answers: AnswerStore) -> None:
    """Whole or not at all: raises `Unwritten` if it cannot be written."""
    with keeping(result, path), replacing(path) as file:
        file.write(_line({"evaluation": result.to_json()}))
        for name, task in tasks.items():
            for each in task.answered(answers):
                file.write(_line(sample_of(name, each, task.context.tokenizer)))


def sample_of(task: str, each: Answered, tokenizer: Tokenizer) -> dict[str, Any]:
    """An item as JSON."""
    asked = zip(each.requests, each.answers, strict=True)
    return {
        "task": task,
        "item": each.item.id,
        "group": each.item.group,
        "gold": gold_text(each),
        "answers": [
            {"prompt": prompt_text(request, tokenizer), **_answer(request, answer, tokenizer)}
            for request, answer in asked
        ],
        "scores": [{name: _number(value) for name, value in sample.items()} for sample in each.samples],
    }


def read_stored(path: Path) -> Stored:
    """The file of `--samples`, an `evaluation.json`, that of a run's folder, or the newest in a folder of runs. Raises
    `ProblemError` for anything else."""
    file = _evaluation_in(path) if path.is_dir() else path
    found = read_evaluation(file)
    columns: dict[str, dict[str, list[float]]] = {}
    for line in _lines(file):
        for sample in line["scores"]:
            own = columns.setdefault(line["task"], {})
            for name, value in sample.items():
                own.setdefault(name, []).append(math.nan if value is None else float(value))
    scores = {task: {name: np.array(each) for name, each in own.items()} for task, own in columns.items()}
    return Stored(file, found, scores)


def _evaluation_in(folder: Path) -> Path:
    own = folder / "evaluation.json"
    if own.is_file():
        return own
    found = sorted(folder.glob("*/evaluation.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        what = "no evaluation.json in the folder, nor in the runs in it"
        raise ProblemError(Problem("missing-file", what, str(folder), NO_EVALUATION))
    messages.note(f"the newest evaluation in {folder} is {found[-1]}")
    return found[-1]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines after the evaluation of a file of samples; none of another file."""
    with file.open("rb") as stream:
        if evaluation_line(stream.readline()) is None:
            return
        for number, line in enumerate(stream, 2):
            try:
                value = parse_json(line)
            except ValueError as error:
                raise ProblemError(_damaged(file, number)) from error
            if not isinstance(value, dict) or not {"task", "scores"} <= value.keys():
                raise ProblemError(_damaged(file, number))
            yield value


def _damaged(file: Path, number: int) -> Problem:
    return Problem("damaged-file", "not a line of --samples", f"{file}:{number}", "write the file again")


def _answer(request: Request, answer: Answer, tokenizer: Tokenizer) -> dict[str, Any]:
    match request, answer:
        case Likelihood(), LikelihoodAnswer():
            asked = tokenizer.decode(request.continuation)
            return {"asked": asked, "nats": _number(answer.nll), "likeliest": answer.likeliest}
        case _, GenerateAnswer():
            return {"answer": answer.text}
        case _, RollingAnswer():
            return {"tokens": len(answer.nll_N), "nats": _number(float(answer.nll_N.sum()))}
    raise TypeError(f"{type(answer).__name__} is no answer to {type(request).__name__}")


def _number(value: float) -> float | None:
    """JSON has no numbers that are not finite."""
    return value if math.isfinite(value) else None


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"


def of_contract_2(tasks: Mapping[str, Any]) -> dict[str, Prepared]:
    """The tasks whose answers can be read item by item."""
    return {name: task for name, task in tasks.items() if isinstance(task, Prepared)}


class Unwritten(ProblemError):
    """A file could not be written, after everything was measured: `result` is not lost."""

    def __init__(self, result: Evaluation, path: Path, error: OSError) -> None:
        what, fix = f"cannot be written ({error.strerror})", "free some space, or name another file"
        super().__init__(Problem("cannot-write", what, str(path), fix), ExitCode.FAILED)
        self.result = result


@contextmanager
def keeping(result: Evaluation, path: Path) -> Iterator[None]:
    """Raises `Unwritten` if the file of a result cannot be written."""
    try:
        yield
    except OSError as error:
        raise Unwritten(result, path, error) from error


def require_writable(paths: Sequence[Path | None]) -> None:
    """Raises `ProblemError` for files that cannot be written, before anything is computed."""
    problems = [problem for path in filter(None, paths) for problem in _unwritable(path)]
    if problems:
        raise ProblemError(problems)


def _unwritable(path: Path) -> Iterator[Problem]:
    try:
        if not path.resolve().parent.is_dir():
            what, fix = "the folder of the file was not found", "make it, or choose another"
            yield Problem("missing-file", what, str(path), fix)
        elif path.absolute().is_relative_to("/dev") or (path.exists() and not path.is_file()):
            yield Problem("cannot-write", "not a regular file", str(path), "give the name of a file")
        else:
            tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.").close()
    except OSError as error:  # permissions alone do not tell: root has them in /proc and on a read-only disk
        what = f"the file cannot be made ({error.strerror})"
        yield Problem("cannot-write", what, str(path), "choose another name or folder")
