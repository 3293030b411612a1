"""Tasks whose data was found, before a model is loaded, and what they measure once it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.tokenizer import BpeTokenizer, read_tokenizer
from penstock.eval_suite.answers import AnswerStore
from penstock.evaluate.against import against, require_same_questions
from penstock.evaluate.evaluation import (
    PreparedTask,
    heldout_tokens,
    prepare_tasks,
    rows_together,
    versions_of,
)
from penstock.evaluate.measuring import Measurement, computing_in, evaluate_model, evaluate_restored
from penstock.evaluate.model_folder import ModelFolder
from penstock.evaluate.options import Options
from penstock.evaluate.progress import TaskProgress
from penstock.evaluate.provenance import Conditions
from penstock.evaluate.samples import Stored, of_contract_2, read_stored, require_writable, write_samples
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import Array, ChatTemplate, TaskContext
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.plugin_lock import locked_components, plugin_lock
from penstock.run.records.evaluation import Evaluation
from penstock.train.restore import Restored


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """The tasks of a run or of its artifact, and its held-out tokens, if its data was found."""

    chosen: Sequence[Choice]
    tasks: dict[str, PreparedTask]
    heldout: Array | None
    options: Options
    stored: Stored | None

    @classmethod
    def of(
        cls,
        config: RunConfig,
        tasks: Sequence[Choice],
        options: Options,
        *,
        data: Callable[[], TokenDataset],
        tokenizer: Callable[[], BpeTokenizer],
        chat: ChatTemplate | None = None,
    ) -> PreparedRun:
        """`tokenizer` is read if there is no data; questions go through the template `chat`."""
        found, missing = _found(data)
        heldout = heldout_tokens(found) if found else None
        length = options.sequence_length or config.data.sequence_length
        _require_positions(length, architecture_settings(config.model).max_positions)
        own = found.tokenizer() if found else tokenizer()
        prompts = tuple(config.evaluate.prompts)
        context = TaskContext(own, heldout, length, chat=chat, prompts=prompts, **options.of_tasks())
        chosen = tasks or config.evaluate.tasks
        with _said_of_missing_data(missing):
            prepared = prepare_tasks(chosen, context)
        if missing is not None:
            messages.note(f"without baselines: {missing}")
        return cls(chosen, prepared, heldout, options, _stored(options, prepared, own.hash))

    def measure(self, restored: Restored, answers: Path | None = None) -> Evaluation:
        """Answers are kept in the folder `answers`, if there is one."""
        config, options = restored.config, self.options
        identity = [dict(restored.digests()), config.resolved()["model"], plugin_lock(config)]
        conditions = Conditions(
            restored.digests(),
            restored.tokenizer.hash,
            json.dumps(identity, sort_keys=True),
            options.dtype or config.train.dtype,
            **_batches(config.model, options),
        )
        measurement = _measurement(self.tasks, self.chosen, conditions, options.answers or answers)
        with computing_in(restored.model, conditions.dtype), measurement.progress:
            result = evaluate_restored(restored, measurement, self.heldout)
        return _finished(result, measurement, options, self.stored)


@dataclass(frozen=True, slots=True)
class PreparedFolder:
    """The tasks of a folder of transformers, which has no held-out text, no prompts and no baselines."""

    folder: ModelFolder
    chosen: Sequence[Choice]
    tasks: dict[str, PreparedTask]
    options: Options
    stored: Stored | None

    @classmethod
    def of(cls, folder: ModelFolder, tasks: Sequence[Choice], options: Options) -> PreparedFolder:
        if not tasks:
            what = "the folder of a model does not say which tasks to run"
            raise ProblemError(Problem("missing-value", what, str(folder.path), "name them with --task"))
        length = options.sequence_length or folder.positions
        if length is None:
            what = "the config does not say how many positions the model reads"
            raise ProblemError(Problem("missing-value", what, str(folder.path), "give --sequence-length"))
        _require_positions(length, folder.positions)
        chat = options.chat(folder.path, lambda: read_tokenizer(folder.path))
        context = TaskContext(folder.tokenizer, None, length, chat=chat, **options.of_tasks())
        prepared = prepare_tasks(tasks, context)
        return cls(folder, tasks, prepared, options, _stored(options, prepared, folder.tokenizer.hash))

    def measure(self) -> Evaluation:
        options, folder = self.options, self.folder
        identity = [dict(folder.digests), locked_components(folder.architecture)]
        conditions = Conditions(
            folder.digests,
            folder.tokenizer.hash,
            json.dumps(identity, sort_keys=True),
            options.dtype or "fp32",
            **_batches(folder.architecture, options),
        )
        measurement, model = _measurement(self.tasks, self.chosen, conditions, options.answers), folder.load()
        with computing_in(model, conditions.dtype), measurement.progress:
            result = evaluate_model(model, folder.name, measurement)
        return _finished(result, measurement, options, self.stored)


def _measurement(
    tasks: Mapping[str, PreparedTask], chosen: Sequence[Choice], conditions: Conditions, answers: Path | None
) -> Measurement:
    store = AnswerStore() if answers is None else AnswerStore.in_folder(answers, conditions.key)
    return Measurement(tasks, conditions, store, versions_of(chosen), TaskProgress())


def _stored(options: Options, tasks: Mapping[str, PreparedTask], tokenizer: str) -> Stored | None:
    """The evaluation to compare with; raises `ProblemError` if it is not of the same questions, and for a file of
    samples that cannot be written."""
    require_writable([options.samples])
    if options.against is None:
        return None
    stored = read_stored(options.against)
    require_same_questions(stored, of_contract_2(tasks), tokenizer)
    return stored


def _finished(result: Evaluation, measurement: Measurement, options: Options, stored: Stored | None) -> Evaluation:
    """The result with what it was compared with; writes the file of samples."""
    tasks = of_contract_2(measurement.tasks)
    if stored is not None:
        result = replace(result, against=against(stored, result, tasks, measurement.answers))
    if options.samples is not None:
        write_samples(options.samples, result, tasks, measurement.answers)
    return result


def _batches(architecture: Choice, options: Options) -> dict[str, Any]:
    """How many texts the model reads at once, and what it may do with them."""
    most = rows_together(architecture)
    size = most if options.batch_size is None or most == 1 else options.batch_size
    return {"batch_size": size, "batch_invariant": bool(options.batch_invariant), "whole": most == 1}


def _require_positions(length: int, most: int | None) -> None:
    if most is not None and length > most:
        what, fix = f"{length} tokens, but the model reads at most {most}", f"use at most {most}"
        raise ProblemError(Problem("too-long", what, "--sequence-length", fix))


def _found(data: Callable[[], TokenDataset]) -> tuple[TokenDataset | None, ProblemError | None]:
    """The run's data, or the problem that hides it. A task that brings its own text does not need the data."""
    try:
        return data(), None
    except ProblemError as error:
        return None, error


@contextmanager
def _said_of_missing_data(missing: ProblemError | None) -> Iterator[None]:
    """A task that needs the run's held-out tokens fails with the reason why there are none."""
    try:
        yield
    except ProblemError as error:
        others = [problem for problem in error.problems if problem.code != "no-heldout"]
        if missing is None or len(others) == len(error.problems):
            raise
        raise ProblemError([*missing.problems, *others], error.exit_code) from error
