"""`penstock evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.choices import choose
from penstock.hooks.contracts import Array, Interval
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory, stage
from penstock.run.records.comparison import Comparison
from penstock.run.records.evaluation import Evaluation, TaskFigures
from penstock.run.records.record import write_record

if TYPE_CHECKING:
    from penstock.data_prep.dataset import TokenDataset
    from penstock.data_prep.tokenizer import BpeTokenizer
    from penstock.eval_suite.answers import AnswerStore
    from penstock.evaluate.evaluation import PreparedTask
    from penstock.train.restore import Restored


@click.command()
@click.argument("paths", metavar="RUN|ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--compare",
    is_flag=True,
    help="Compare two paths, a baseline and its compressed form: paired differences on the baseline's held-out "
    "documents, or on the text of --task.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task to run instead of the config's: NAME or {use: NAME, ...}, such as "
    "'{use: text, paths: [README.md]}', or lm-eval:NAME for one of lm-evaluation-harness. Repeatable.",
)
@click.option(
    "--include-path",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with YAML files of your own tasks, for --task lm-eval:NAME.",
)
@click.option(
    "--shots",
    type=click.IntRange(min=0),
    help="Few-shot examples before each question (default: the task's own number).",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Evaluate only the first N items of each task; metric names include the limit.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the tasks' random draws."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of local datasets, such as lambada/lambada_test.jsonl and wikitext2/wiki.test.raw.",
)
@output.json_option
@click.pass_obj
def evaluate(
    registry: Registry, paths: tuple[Path, ...], compare: bool, tasks: tuple[str, ...], as_json: bool, **options: Any
) -> dict[str, Any]:
    """Measure RUN's newest checkpoint: its tasks, baselines on its held-out text, samples and speed.

    Problems with tasks and their data are reported before the model is loaded. Answers are cached in RUN/answers, so a
    killed or repeated evaluation computes only what is missing. Of an ARTIFACT nothing is kept; the data of its run is
    searched for next to it and in runs. Of an encoder the figures of its own objective are measured on the held-out
    examples.

    With --compare, two paths are compared document by document: loss, bits per byte, top-1 accuracy and agreement, KL
    divergence, and the bytes of both files. The result is kept with the second one.
    """
    from penstock.quant158.artifact.reader import is_artifact

    chosen = _chosen(registry, tasks, options.pop("include_path"))
    _require_number(paths, compare, chosen)
    if compare:
        return _compare(paths, registry, chosen, as_json, options)
    (run_path,) = paths
    if is_artifact(run_path):
        result = evaluate_artifact(run_path, registry, chosen, **options)
    else:
        result = evaluate_run(RunDirectory.open(run_path), registry, chosen, **options)
    output.print_result(result, as_json, lambda: evaluation_text(result))
    return result.to_json()


def _chosen(registry: Registry, tasks: Sequence[str], include_path: Path | None) -> list[Choice]:
    """Raises `ProblemError` for a folder of tasks without a task that reads it."""
    given = {} if include_path is None else {"include_path": str(include_path)}
    chosen = [choose(registry, "task", text, given) for text in tasks]
    if given and all(getattr(each.settings, "include_path", None) is None for each in chosen):
        what, fix = "--include-path without a task of lm-evaluation-harness", "add --task lm-eval:NAME"
        raise ProblemError(Problem("bad-value", what, "--include-path", fix))
    return chosen


def _require_number(paths: Sequence[Path], compare: bool, tasks: Sequence[Choice]) -> None:
    """Raises `ProblemError` unless there are two paths and at most one task to compare, or one path to evaluate."""
    if compare and len(paths) != 2:
        what, fix = f"--compare takes two paths, not {len(paths)}", "give a baseline and its compressed form"
        raise ProblemError(Problem("bad-value", what, " ".join(map(str, paths)), fix))
    if compare and len(tasks) > 1:
        what, fix = f"--compare takes one text, not {len(tasks)} tasks", "compare once for each"
        raise ProblemError(Problem("bad-value", what, "--task", fix))
    if not compare and len(paths) > 1:
        what, fix = f"{len(paths)} paths", "add --compare to compare two, or evaluate one after the other"
        raise ProblemError(Problem("bad-value", what, " ".join(map(str, paths)), fix))


def _compare(
    paths: Sequence[Path], registry: Registry, tasks: Sequence[Choice], as_json: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    from penstock.evaluate.comparison import compare_paths

    record = compare_paths(paths[0], paths[1], registry, next(iter(tasks), None), **options).record
    output.print_result(record, as_json, lambda: comparison_text(record))
    return record.to_json()


def evaluate_run(run: RunDirectory, registry: Registry, tasks: Sequence[Choice] = (), **options: Any) -> Evaluation:
    """Evaluates the newest checkpoint on `tasks`, or on the config's if none are given, and keeps the result in the run
    directory. `options` are those of `task_context`."""
    from penstock.data_prep.tokenizer import BpeTokenizer
    from penstock.eval_suite.answers import AnswerStore
    from penstock.evaluate.evaluation import weights_of, with_earlier_tasks
    from penstock.evaluate.task_run import evaluate_task, require_own_task
    from penstock.train.data import open_data
    from penstock.train.restore import checkpoint_of, restore_run
    from penstock.train.scoring import is_scored

    with run.lock(), stage(run, "evaluate"):
        config = run.config(registry)
        if is_scored(config):
            require_own_task(config, tasks, options)
            result = evaluate_task(restore_run(run.path, registry), options.get("seed", 0))
            write_record(run.path / "evaluation.json", result)
            return result
        prepared = _Prepared.of(
            config,
            tasks,
            options,
            data=lambda: open_data(run, config),
            tokenizer=lambda: BpeTokenizer.load(checkpoint_of(run).path),
        )
        restored = restore_run(run.path, registry)
        result = prepared.measure(restored, AnswerStore.in_folder(run.path / "answers", weights_of(restored)))
        result = with_earlier_tasks(result, run.path / "evaluation.json")
        write_record(run.path / "evaluation.json", result)
    return result


def evaluate_artifact(path: Path, registry: Registry, tasks: Sequence[Choice] = (), **options: Any) -> Evaluation:
    """Evaluates an artifact like the run that it was made from; nothing is kept."""
    from penstock.evaluate.task_run import evaluate_task, require_own_task
    from penstock.train.artifact import OpenedArtifact
    from penstock.train.restore import restore_artifact
    from penstock.train.scoring import is_scored

    opened = OpenedArtifact.open(path, registry)
    if is_scored(opened.config):
        require_own_task(opened.config, tasks, options)
        return evaluate_task(restore_artifact(opened), options.get("seed", 0))
    prepared = _Prepared.of(opened.config, tasks, options, data=opened.dataset, tokenizer=lambda: opened.tokenizer)
    return prepared.measure(restore_artifact(opened))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Tasks whose data was found, before the model is loaded."""

    chosen: Sequence[Choice]
    tasks: dict[str, PreparedTask]
    heldout: Array | None

    @classmethod
    def of(
        cls,
        config: RunConfig,
        tasks: Sequence[Choice],
        options: Mapping[str, Any],
        *,
        data: Callable[[], TokenDataset],
        tokenizer: Callable[[], BpeTokenizer],
    ) -> _Prepared:
        """`tokenizer` is read if there is no data."""
        from penstock.evaluate.evaluation import heldout_tokens, prepare_tasks, task_context

        found, missing = _found(data)
        heldout = heldout_tokens(found) if found else None
        context = task_context(config, found.tokenizer() if found else tokenizer(), heldout, **options)
        chosen = tasks or config.evaluate.tasks
        with _said_of_missing_data(missing):
            prepared = prepare_tasks(chosen, context)
        if missing is not None:
            messages.note(f"without baselines: {missing}")
        return cls(chosen, prepared, heldout)

    def measure(self, restored: Restored, answers: AnswerStore | None = None) -> Evaluation:
        from penstock.evaluate.evaluation import evaluate_restored, versions_of
        from penstock.train.progress import StageProgress

        versions = versions_of(self.chosen)
        with StageProgress() as progress:
            return evaluate_restored(
                restored, self.tasks, self.heldout, answers=answers, versions=versions, progress=progress
            )


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


def evaluation_text(result: Evaluation) -> str:
    """The figures: those of the tasks that were measured now, of the run, and of tasks that were measured earlier."""
    now = result.tasks if result.measured is None else result.measured
    rows = _rows({name: task for name, task in result.tasks.items() if name in now})
    rows += [(f"held-out text by {name}", f"{value:.4f}", "") for name, value in result.baselines.named.items()]
    if speed := result.performance:
        rows += [
            ("generation, tokens/s", f"{speed.tokens_per_second:.1f}", ""),
            ("first token, ms", f"{speed.prefill_ms:.1f}", ""),
        ]
    samples = "\n\n".join(f"--- {sample.prompt!r}\n{sample.prompt}{sample.text}" for sample in result.samples)
    parts = [output.table((result.checkpoint, "value", "95 % interval"), rows)]
    if earlier := _rows({name: task for name, task in result.tasks.items() if name not in now}):
        parts.append(output.table(("from earlier evaluations of this checkpoint", "value", "95 % interval"), earlier))
    return "\n\n".join([*parts, *([samples] if samples else [])])


def comparison_text(result: Comparison) -> str:
    """The figures of both, their differences with intervals, and the documents that lose most."""
    pairs = {
        "loss, nats a token": result.loss,
        "bits per byte": result.bits_per_byte,
        "top-1 accuracy": result.top1_accuracy,
    }
    rows = [
        (name, f"{each.baseline:.4f}", f"{each.compressed:.4f}", f"{each.difference:+.4g}", _around(each.interval, "+"))
        for name, each in pairs.items()
    ]
    alone = {"same first choice": result.top1_agreement, "KL(A || B), nats a token": result.kl_divergence}
    rows += [(name, "", "", f"{each.value:.4g}", _around(each.interval)) for name, each in alone.items()]
    a, b = result.baseline, result.compressed
    rows.append(("bytes", f"{a.bytes:,}", f"{b.bytes:,}", times_smaller(a.bytes, b.bytes), ""))
    text = f"{result.task}: {result.samples:,} {result.samples_are}, {result.bytes:,} bytes, {result.tokens:,} tokens"
    files = [f"{name}  {each.path}, {each.checkpoint} ({each.file})" for name, each in (("A", a), ("B", b))]
    worst = [
        (each.name, f"{each.baseline:.4f}", f"{each.compressed:.4f}", f"{each.difference:+.4g}", repr(each.text))
        for each in result.worst
    ]
    return "\n\n".join(
        [
            "\n".join([*files, text]),
            output.table(("", "A", "B", "B - A", "95 % interval"), rows),
            output.table(("bits per byte, worst first", "A", "B", "B - A", "begins"), worst),
        ]
    )


def times_smaller(before: int, after: int) -> str:
    """
    >>> times_smaller(300, 100), times_smaller(100, 150), times_smaller(100, 100)
    ('3.00 times smaller', '1.50 times larger', 'the same size')
    """
    if before == after:
        return "the same size"
    return f"{before / after:.2f} times smaller" if after < before else f"{after / before:.2f} times larger"


def _around(interval: Interval | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval.low:{sign}.4g} to {interval.high:{sign}.4g}"


def _rows(tasks: Mapping[str, TaskFigures]) -> list[tuple[str, str, str]]:
    return [
        (name, f"{value:.4f}", _interval_text(task.intervals.get(name)))
        for task in tasks.values()
        for name, value in task.metrics.items()
        if value is not None
    ]


def _interval_text(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f} ({interval.samples} samples)"
