"""Tasks whose data was found, before a model is loaded, and what they measure once it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.data_prep.dataset import TokenDataset
from penstock.eval_suite.answers import AnswerStore
from penstock.evaluate.evaluation import (
    PreparedTask,
    heldout_tokens,
    prepare_tasks,
    rows_together,
    versions_of,
)
from penstock.evaluate.measuring import Measurement, compute_in, evaluate_model, evaluate_restored
from penstock.evaluate.model_folder import ModelFolder
from penstock.evaluate.options import Options
from penstock.evaluate.progress import TaskProgress
from penstock.evaluate.provenance import Conditions
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import Array, TaskContext, Tokenizer
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

    @classmethod
    def of(
        cls,
        config: RunConfig,
        tasks: Sequence[Choice],
        options: Options,
        *,
        data: Callable[[], TokenDataset],
        tokenizer: Callable[[], Tokenizer],
    ) -> PreparedRun:
        """`tokenizer` is read if there is no data."""
        found, missing = _found(data)
        heldout = heldout_tokens(found) if found else None
        length = options.sequence_length or config.data.sequence_length
        _require_positions(length, architecture_settings(config.model).max_positions)
        own = found.tokenizer() if found else tokenizer()
        prompts = tuple(config.evaluate.prompts)
        context = TaskContext(own, heldout, length, prompts=prompts, **options.of_tasks())
        chosen = tasks or config.evaluate.tasks
        with _said_of_missing_data(missing):
            prepared = prepare_tasks(chosen, context)
        if missing is not None:
            messages.note(f"without baselines: {missing}")
        return cls(chosen, prepared, heldout, options)

    def measure(self, restored: Restored, answers: Path | None = None) -> Evaluation:
        """Answers are kept in the folder `answers`, if there is one."""
        config, options = restored.config, self.options
        identity = [dict(restored.digests()), config.resolved()["model"], plugin_lock(config)]
        conditions = Conditions(
            restored.digests(),
            restored.tokenizer.hash,
            json.dumps(identity, sort_keys=True),
            options.dtype or config.train.dtype,
            _together(config.model, options),
        )
        compute_in(restored.model, conditions.dtype)
        with _measuring(self.tasks, self.chosen, conditions, options.answers or answers) as measurement:
            return evaluate_restored(restored, measurement, self.heldout)


@dataclass(frozen=True, slots=True)
class PreparedFolder:
    """The tasks of a folder of transformers, which has no held-out text, no prompts and no baselines."""

    folder: ModelFolder
    chosen: Sequence[Choice]
    tasks: dict[str, PreparedTask]
    options: Options

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
        context = TaskContext(folder.tokenizer, None, length, **options.of_tasks())
        return cls(folder, tasks, prepare_tasks(tasks, context), options)

    def measure(self) -> Evaluation:
        options, folder = self.options, self.folder
        identity = [dict(folder.digests), locked_components(folder.architecture)]
        conditions = Conditions(
            folder.digests,
            folder.tokenizer.hash,
            json.dumps(identity, sort_keys=True),
            options.dtype or "fp32",
            _together(folder.architecture, options),
        )
        model = folder.load()
        compute_in(model, conditions.dtype)
        with _measuring(self.tasks, self.chosen, conditions, options.answers) as measurement:
            return evaluate_model(model, folder.name, measurement)


@contextmanager
def _measuring(
    tasks: Mapping[str, PreparedTask], chosen: Sequence[Choice], conditions: Conditions, answers: Path | None
) -> Iterator[Measurement]:
    store = AnswerStore() if answers is None else AnswerStore.in_folder(answers, conditions.key)
    with TaskProgress() as progress:
        yield Measurement(tasks, conditions, store, versions_of(chosen), progress)


def _together(architecture: Choice, options: Options) -> int:
    """How many texts the model reads at once."""
    most = rows_together(architecture)
    return most if options.batch_size is None or most == 1 else options.batch_size


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
