"""`penstock evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from penstock.cli import output
from penstock.cli.choices import choose
from penstock.evaluate.options import HOW_ANSWERED, Dtype, Options, Shots
from penstock.evaluate.paths import open_run
from penstock.evaluate.text import comparison_text, evaluation_text
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.run.directory import RunDirectory, stage
from penstock.run.records.evaluation import Evaluation
from penstock.run.records.record import write_record

ONE_MODEL = ("published", "shots_in_one_turn", "out", *HOW_ANSWERED)
"""Options of an evaluation that a comparison does not have."""


@click.command()
@click.argument("paths", metavar="RUN|ARTIFACT|FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--compare",
    is_flag=True,
    help="Compare two models, such as a baseline and its compressed form: paired differences on the held-out documents "
    "of the first, or on every --task.",
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
    "--published",
    metavar="MODEL",
    help="Run the tasks of the figures that others published of MODEL, such as gpt2, and print both.",
)
@click.option(
    "--shots",
    type=Shots(),
    metavar="N|fit",
    help="Few-shot examples before each question, or `fit`: the task's own number, or as many as the model reads "
    "(default: the task's own number).",
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
    help="Folder of local data sets, with files such as lambada/lambada_test.jsonl (default: a task's path, or the "
    "Hugging Face hub).",
)
@click.option(
    "--sandbox",
    type=click.Choice(("full", "reduced")),
    default="full",
    show_default=True,
    help="Isolation of programs that the model wrote, for tasks that run them. `reduced` does without namespaces.",
)
@click.option(
    "--unsafe-code-execution",
    is_flag=True,
    help="Run programs that the model wrote without isolation. They can do whatever you can.",
)
@click.option(
    "--sequence-length",
    type=click.IntRange(min=2),
    help="Tokens that the model reads at once (default: a run's data.sequence_length, a FOLDER's positions).",
)
@click.option(
    "--chat-template",
    metavar="own|FILE",
    help="Ask questions through a chat template: the model's own, or a file of Jinja or a tokenizer_config.json.",
)
@click.option(
    "--shots-in-one-turn",
    is_flag=True,
    help="With --chat-template, put all few-shot examples into one message instead of a turn each.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Texts that the model reads at once (default: 16, or 1 where a router looks at other texts).",
)
@click.option(
    "--batch-invariant/--no-batch-invariant",
    default=None,
    help="Read each text alone, so that no bit of a figure depends on order or batch size (default: only with "
    "--published).",
)
@click.option(
    "--dtype",
    type=click.Choice(get_args(Dtype)),
    help="Dtype that the model computes in (default: that of the run's training, fp32 for a FOLDER).",
)
@click.option(
    "--answers",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps the model's answers, so that nothing is computed twice (default: RUN/answers).",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write every prompt, answer and score to, as JSON lines.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True),
    help="An earlier evaluation.json, or its file of --samples: print the differences, paired if there are samples. "
    "Figures of other data or prompts are refused before the model is loaded.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write the result to as JSON. A run also keeps it in its evaluation.json.",
)
@output.json_option
@click.pass_obj
def evaluate(
    registry: Registry, paths: tuple[Path, ...], compare: bool, tasks: tuple[str, ...], as_json: bool, **options: Any
) -> dict[str, Any]:
    """Measure RUN's newest checkpoint: its tasks, baselines on its held-out text, samples and speed.

    A FOLDER is a causal model of transformers: config.json, safetensors and tokenizer.json. It needs --task, or
    --published. An ARTIFACT is measured like its run, whose data is searched for next to it and in runs. Of an encoder,
    the figures of its own objective are measured on the held-out examples.

    Problems with tasks and their data are reported before the model is loaded. Answers are cached in RUN/answers, or in
    the folder of --answers, so a killed or repeated evaluation computes only what is missing.

    With --compare, two paths are compared. On a text, document by document: loss, bits per byte, top-1 accuracy and
    agreement, KL divergence. On other tasks, question by question. The result is kept with the second one.
    """
    chosen = _chosen(registry, tasks, options.pop("include_path"))
    _require_number(paths, compare)
    from penstock.evaluate.samples import Unwritten, keeping, require_writable

    _require_template(options)
    if compare:
        return _compare(paths, registry, chosen, as_json, options)
    out: Path | None = options.pop("out")
    require_writable([out])
    published: str | None = options.pop("published")
    try:
        if published is None:
            result = _evaluation(paths[0], registry, chosen, options)
        else:
            result = _published(published, paths[0], registry, chosen, options)
        if out is not None:
            with keeping(result, out):
                write_record(out, result)
    except Unwritten as error:
        _print(error.result, as_json)
        raise
    return _print(result, as_json)


def _print(result: Evaluation, as_json: bool) -> dict[str, Any]:
    output.print_result(result, as_json, lambda: evaluation_text(result))
    return result.to_json()


def _published(
    model: str, path: Path, registry: Registry, tasks: Sequence[Choice], options: Mapping[str, Any]
) -> Evaluation:
    from penstock.evaluate.published import published_options, published_tasks, require_weights, with_published

    require_weights(model, path)
    chosen = published_tasks(model, tasks, registry)
    return with_published(model, _evaluation(path, registry, chosen, published_options(model, options)))


def _evaluation(path: Path, registry: Registry, tasks: Sequence[Choice], options: Mapping[str, Any]) -> Evaluation:
    from penstock.evaluate.model_folder import is_model_folder
    from penstock.quant158.artifact.reader import is_artifact

    if is_artifact(path):
        return evaluate_artifact(path, registry, tasks, **options)
    if is_model_folder(path):
        return evaluate_folder(path, registry, tasks, **options)
    return evaluate_run(open_run(path), registry, tasks, **options)


def _require_template(options: Mapping[str, Any]) -> None:
    if options["shots_in_one_turn"] and options["chat_template"] is None:
        what, fix = "only a chat template has turns", "give --chat-template too, or leave it out"
        raise ProblemError(Problem("bad-value", what, "--shots-in-one-turn", fix))


def _chosen(registry: Registry, tasks: Sequence[str], include_path: Path | None) -> list[Choice]:
    """Raises `ProblemError` for a folder of tasks without a task that reads it."""
    given = {} if include_path is None else {"include_path": str(include_path)}
    chosen = [choose(registry, "task", text, given) for text in tasks]
    if given and all(getattr(each.settings, "include_path", None) is None for each in chosen):
        what, fix = "--include-path without a task of lm-evaluation-harness", "add --task lm-eval:NAME"
        raise ProblemError(Problem("bad-value", what, "--include-path", fix))
    return chosen


def _require_number(paths: Sequence[Path], compare: bool) -> None:
    """Raises `ProblemError` unless there are two paths to compare, or one path to evaluate."""
    if compare and len(paths) != 2:
        what, fix = f"--compare takes two paths, not {len(paths)}", "give a baseline and its compressed form"
        raise ProblemError(Problem("bad-value", what, " ".join(map(str, paths)), fix))
    if not compare and len(paths) > 1:
        what, fix = f"{len(paths)} paths", "add --compare to compare two, or evaluate one after the other"
        raise ProblemError(Problem("bad-value", what, " ".join(map(str, paths)), fix))


def _compare(
    paths: Sequence[Path], registry: Registry, tasks: Sequence[Choice], as_json: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    from penstock.evaluate.comparison import compare_paths

    if given := [f"--{name.replace('_', '-')}" for name in ONE_MODEL if options[name] not in (None, False)]:
        what, fix = f"--compare does not take {' or '.join(given)}", "leave it out"
        raise ProblemError(Problem("bad-value", what, given[0], fix))
    of_tasks = Options(**{name: value for name, value in options.items() if name not in ONE_MODEL}).of_tasks()
    record = compare_paths(paths[0], paths[1], registry, tasks, **of_tasks).record
    output.print_result(record, as_json, lambda: comparison_text(record))
    return record.to_json()


def evaluate_run(run: RunDirectory, registry: Registry, tasks: Sequence[Choice] = (), **options: Any) -> Evaluation:
    """Evaluates the newest checkpoint on `tasks`, or on the config's if none are given, and keeps the result in the run
    directory. `options` are the fields of `Options`."""
    from penstock.data_prep.tokenizer import BpeTokenizer, read_tokenizer
    from penstock.evaluate.evaluation import with_earlier_tasks
    from penstock.evaluate.prepared import PreparedRun
    from penstock.evaluate.samples import keeping
    from penstock.evaluate.task_run import evaluate_task, require_own_task
    from penstock.train.data import open_data
    from penstock.train.restore import checkpoint_of, restore_run
    from penstock.train.scoring import is_scored

    record = run.path / "evaluation.json"
    with run.lock(), stage(run, "evaluate"):
        config = run.config(registry)
        if is_scored(config):
            require_own_task(config, tasks, options)
            result = evaluate_task(restore_run(run.path, registry), options.get("seed", 0))
            with keeping(result, record):
                write_record(record, result)
            return result
        own = Options(**options)
        chat = None
        if own.chat_template is not None:
            folder = checkpoint_of(run).path
            chat = own.chat(folder, lambda: read_tokenizer(folder))
        prepared = PreparedRun.of(
            config,
            tasks,
            own,
            data=lambda: open_data(run, config),
            tokenizer=lambda: BpeTokenizer.load(checkpoint_of(run).path),
            chat=chat,
        )
        result = prepared.measure(restore_run(run.path, registry), run.path / "answers")
        result = with_earlier_tasks(result, record)
        with keeping(result, record):
            write_record(record, result)
    return result


def evaluate_artifact(path: Path, registry: Registry, tasks: Sequence[Choice] = (), **options: Any) -> Evaluation:
    """Evaluates an artifact like the run that it was made from; nothing is kept."""
    from penstock.evaluate.prepared import PreparedRun
    from penstock.evaluate.task_run import evaluate_task, require_own_task
    from penstock.train.artifact import TOKENIZER, OpenedArtifact
    from penstock.train.restore import restore_artifact
    from penstock.train.scoring import is_scored

    opened = OpenedArtifact.open(path, registry)
    if is_scored(opened.config):
        require_own_task(opened.config, tasks, options)
        return evaluate_task(restore_artifact(opened), options.get("seed", 0))
    own = Options(**options)
    chat = own.chat(None, lambda: opened.artifact.file(TOKENIZER))
    prepared = PreparedRun.of(
        opened.config, tasks, own, data=opened.dataset, tokenizer=lambda: opened.tokenizer, chat=chat
    )
    return prepared.measure(restore_artifact(opened))


def evaluate_folder(path: Path, registry: Registry, tasks: Sequence[Choice], **options: Any) -> Evaluation:
    """Evaluates a causal model of transformers, in a folder, on `tasks`; nothing is kept but answers, if `answers`
    names a folder."""
    from penstock.evaluate.model_folder import ModelFolder
    from penstock.evaluate.prepared import PreparedFolder

    return PreparedFolder.of(ModelFolder.open(path, registry), tasks, Options(**options)).measure()
