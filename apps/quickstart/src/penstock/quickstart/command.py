"""`penstock quickstart`: the main workflow in one command, built from the functions behind the other apps' commands."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

import click

from penstock.cli import output
from penstock.cli.options import overrides_argument, runs_option
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.checks import located, missing_files_of_other_commands
from penstock.run.config import load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import require_importable
from penstock.run.records.evaluation import Evaluation
from penstock.run.records.profile import Profile
from penstock.run.records.training import Trained

T = TypeVar("T")


@click.command()
@overrides_argument
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Config to use instead of the packaged quickstart.yaml.",
)
@runs_option
@output.json_option
@click.pass_obj
def quickstart(
    registry: Registry, overrides: tuple[str, ...], config_file: Path | None, runs: Path, as_json: bool
) -> dict[str, Any]:
    """Train, measure and explain a small sparse language model on the Python standard library.

    Runs prepare, train, evaluate, profile, simulate and report in a row; about three minutes on two cores.
    """
    begun = time.perf_counter()
    with _config(config_file) as config:
        trained = _train(registry, config, overrides, runs)
    run = RunDirectory(Path(trained.run_dir))
    evaluation = _evaluate(registry, run)
    profile = None
    if trained.expert_layers:
        profile = _profile(registry, run)
        _simulate(registry, run)
    page = _report(run)
    result = {
        "run_dir": trained.run_dir,
        "seconds": round(time.perf_counter() - begun, 2),
        "train_tokens": trained.train_tokens,
        "tokens_per_second": trained.tokens_per_second,
        "heldout_bits_per_byte": evaluation.heldout_bits_per_byte,
        "baselines": evaluation.baselines.to_json(),
        "max_violation_global": profile and profile.max_violation_global,
        "report": str(page),
    }
    output.print_result(result, as_json, lambda: _text(result, evaluation))
    return result


def _train(registry: Registry, config_file: Path, overrides: tuple[str, ...], runs: Path) -> Trained:
    from penstock.train.commands import prepared_text, trained_text
    from penstock.train.ranks import require_one_process
    from penstock.train.training import prepare_run, train_alone

    config, document = load_run_config(config_file, overrides, registry)
    require_importable(config)
    require_one_process(config.train)
    if missing := missing_files_of_other_commands(config):  # the later commands run as well
        raise ProblemError([located(problem, document) for problem in missing])
    arguments = [config_file, *overrides, "--runs", runs]
    prepared = _step(["prepare", *arguments], lambda: prepare_run(config, runs), prepared_text)

    def train() -> Trained:
        return train_alone(config, document, runs, registry, overrides=overrides)

    trained = _step(["train", *arguments], train, trained_text)
    RunDirectory(Path(trained.run_dir)).record_stage("prepare", prepared["seconds"])
    return trained


def _evaluate(registry: Registry, run: RunDirectory) -> Evaluation:
    from penstock.evaluate.commands import evaluate_run
    from penstock.evaluate.text import evaluation_text

    return _step(["evaluate", run.path], lambda: evaluate_run(run, registry), evaluation_text)


def _profile(registry: Registry, run: RunDirectory) -> Profile:
    from penstock.profile.command import profile_run
    from penstock.profile.text import model_text

    return _step(["profile", run.path], lambda: profile_run(run, registry), model_text)


def _simulate(registry: Registry, run: RunDirectory) -> None:
    from penstock.simulate.commands import Prediction, predicted, simulation_text

    _step(["simulate", run.path], lambda: predicted(registry, Prediction(str(run.path))), simulation_text)


def _report(run: RunDirectory) -> Path:
    from penstock.report.command import write_report

    return _step(["report", run.path], lambda: write_report([run]), str)


def _step(command: list[Any], work: Callable[[], T], text: Callable[[T], str]) -> T:
    """Runs a stage and prints its command on stderr; stdout is for the final result."""
    output.note(f"$ penstock {shlex.join(map(str, command))}")
    result = work()
    click.echo(text(result), err=True)
    return result


@contextlib.contextmanager
def _config(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with as_file(files("penstock.quickstart") / "quickstart.yaml") as packaged:
        yield packaged


def _text(result: dict[str, Any], evaluation: Evaluation) -> str:
    rows = [
        ("this model", _figure(evaluation.heldout_bits_per_byte)),
        *((f"{name} baseline", f"{value:.3f}") for name, value in evaluation.baselines.named.items()),
    ]
    return "\n".join(
        [
            output.table(("held-out text", "bits per byte"), rows),
            "",
            f"trained on {result['train_tokens']:,} tokens at {result['tokens_per_second']:,.0f} tokens/s; "
            f"MaxVio {_figure(result['max_violation_global'])}; {result['seconds']:.0f} s in total",
            f"run:    {result['run_dir']}",
            f"report: {result['report']}",
        ]
    )


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
