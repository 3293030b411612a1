"""`penstock prepare` and `penstock train`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.options import config_argument, overrides_argument, runs_option
from penstock.hooks.atomic import write_json
from penstock.hooks.problems import failed
from penstock.hooks.registry import Registry
from penstock.run.config import RunConfig, load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import plugin_lock, require_importable
from penstock.run.records.record import as_json, write_record
from penstock.run.records.training import Status
from penstock.train.resume import Resumption, check_resume, find_run
from penstock.train.signals import terminate_as_interrupt

if TYPE_CHECKING:
    from penstock.hooks.contracts import Engine
    from penstock.train.loop import Trainer


@click.command()
@config_argument
@overrides_argument
@runs_option
@output.json_option
@click.pass_obj
def prepare(
    registry: Registry, config_file: Path, overrides: tuple[str, ...], runs: Path, as_json: bool
) -> dict[str, Any]:
    """Turn the corpus of CONFIG into a tokenizer and token shards. Does nothing where that is already done."""
    config, _ = load_run_config(config_file, overrides, registry)
    with terminate_as_interrupt():
        result = _prepare(config, runs)
    output.print_result(result, as_json, lambda: "\n".join(f"{key}: {value}" for key, value in result.items()))
    return result


def _prepare(config: RunConfig, runs: Path) -> dict[str, Any]:
    from penstock.train.compose import prepare_data
    from penstock.train.progress import StageProgress

    begun = time.perf_counter()
    with StageProgress() as progress:
        prepared = prepare_data(runs, config, progress)
    manifest = prepared.manifest
    return {
        "data": str(prepared.folder),
        "reused": prepared.reused,
        "seconds": round(time.perf_counter() - begun, 2),
        "vocabulary_size": manifest.vocabulary_size,
        **{
            f"{name}_{unit}": getattr(split, unit)
            for name, split in manifest.splits.items()
            for unit in ("documents", "tokens", "text_bytes")
        },
    }


@click.command()
@config_argument
@overrides_argument
@click.option("--resume", metavar="auto|RUN", help="Continue RUN, or the newest unfinished run of this config (auto).")
@click.option("--allow-config-drift", is_flag=True, help="Resume with other settings too; says and records which.")
@click.option("--allow-plugin-drift", is_flag=True, help="Resume with other code of components too; says which.")
@click.option("--dry-run", is_flag=True, help="Check everything, count parameters and steps, and stop.")
@runs_option
@output.json_option
@click.pass_obj
def train(
    registry: Registry,
    config_file: Path,
    overrides: tuple[str, ...],
    resume: str | None,
    allow_config_drift: bool,
    allow_plugin_drift: bool,
    dry_run: bool,
    runs: Path,
    as_json: bool,
) -> dict[str, Any]:
    """Train the model that CONFIG describes; data is prepared first where it is not. Ctrl-C leaves a run that
    `--resume auto` continues with the same bits."""
    config, document = load_run_config(config_file, overrides, registry)
    require_importable(config.data, config.model, config.train)
    if dry_run:
        result = _plan(config)
        output.print_result(result, as_json, lambda: _plan_text(result))
        return result
    _require_buildable(config)
    from penstock.train.ranks import joined

    with joined(config) as engine:
        first = engine.rank == 0
        found = find_run(runs, config, resume, allow_config_drift=allow_config_drift) if first and resume else None
        made = (found or RunDirectory.create(runs, config, document, overrides, registry)) if first else None
        run = engine.share(made)
        assert run is not None  # rank 0's
        with terminate_as_interrupt(), _disk_errors_named(run), run.lock() if first else nullcontext():
            resumption = found and check_resume(
                found, config, allow_config_drift=allow_config_drift, allow_plugin_drift=allow_plugin_drift
            )
            result = _train(config, run, runs, engine, resumption, registry, allow_plugin_drift=allow_plugin_drift)
    if first:
        output.print_result(result, as_json, lambda: _result_text(result))
    return result


def _result_text(result: dict[str, Any]) -> str:
    lines = [
        f"trained {result['train_tokens']:,} tokens in {result['seconds']} s "
        f"({result['tokens_per_second']:,.0f} tokens/s)"
    ]
    if "learnt" in result:
        from penstock.train.learnt import as_text

        lines.append(as_text(result["learnt"]))
    return "\n".join([*lines, f"run: {result['run_dir']}"])


@contextmanager
def _disk_errors_named(run: RunDirectory) -> Iterator[None]:
    """A disk that is full, read-only or gone ends the run as a `Problem` that says what is not lost."""
    try:
        yield
    except BrokenPipeError:  # nobody reads what the command prints; that is not the disk's doing
        raise
    except OSError as error:
        from penstock.train.checkpoint import last_good

        fix = f"{last_good(run.checkpoints)}; once this is mended, --resume {run.path} continues"
        raise failed("disk", error.strerror or str(error), str(error.filename or run.path), fix) from error


def _train(
    config: RunConfig,
    run: RunDirectory,
    runs: Path,
    engine: Engine,
    resumption: Resumption | None,
    registry: Registry,
    *,
    allow_plugin_drift: bool,
) -> dict[str, Any]:
    """Trains on this rank. Rank 0 alone prepares data, writes and speaks."""
    first = engine.rank == 0
    prepared = engine.share(_prepare(config, runs) if first else {})
    if first and not prepared["reused"]:
        run.record_stage("prepare", prepared["seconds"])

    from penstock.train.loop import Interrupted
    from penstock.train.memory import keep_freed_memory

    begun = time.perf_counter()
    keep_freed_memory()
    trainer = _trainer(config, run, runs, engine)
    step = trainer.resume(allow_plugin_drift=allow_plugin_drift)
    earlier = trainer.elapsed  # of the steps before the checkpoint; what was lost to a kill is not counted twice
    if first:
        _record_beginning(trainer, step, resumption)
    try:
        trainer.train()
    except Interrupted:
        train = ["train", run.path / "config.resolved.yaml", "--resume", run.path, "--runs", runs]
        again = ["penstock", *registry.selection.arguments(), *train]
        if first:
            output.note(f"continue with: {shlex.join(str(part) for part in again)}")
        raise KeyboardInterrupt from None
    finally:
        if first:
            run.record_stage("train", earlier + time.perf_counter() - begun)
    return _trained(trainer)


def _trainer(config: RunConfig, run: RunDirectory, runs: Path, engine: Engine) -> Trainer:
    """Everything that trains, put together; raises `ProblemError` where ranks do not have the same of it."""
    from penstock.train.compose import compose_model, compose_optimizer, open_dataset, training_data
    from penstock.train.loop import Trainer
    from penstock.train.ranks import require_same, require_same_plugins
    from penstock.train.step_module import StepModule

    first = engine.rank == 0
    dataset = open_dataset(runs, config, verify=first)
    composition = compose_model(
        config, dataset.manifest.vocabulary_size, engine.device, end_of_text=dataset.tokenizer().end_of_text
    )
    objective = config.train.objective.build()
    objective.prepare(training_data(config, dataset))
    engine.prepare(
        StepModule(composition.model, objective),
        lambda module: compose_optimizer(config, module.model),
        config.train.schedule.build(),
    )
    say, warn = (output.note, output.warn) if first else (_silent, _silent)
    trainer = Trainer(config, run, dataset, composition, objective, engine, say, warn)
    require_same_plugins(trainer.plugins, engine.gather)
    require_same({"data": dataset.hash, **objective.fingerprint()}, engine.gather, "give all ranks the same data")
    return trainer


def _silent(text: str) -> None:
    """Rank 0 says it."""


def _record_beginning(trainer: Trainer, step: int, resumption: Resumption | None) -> None:
    from penstock.train.compose import parameter_summary, size_table
    from penstock.train.numerics import record_numerics

    run, composition = trainer.run, trainer.composition
    machine = record_numerics(run, trainer.engine.device)
    if resumption is not None:
        output.note(f"resuming {run.path} from step {step} of {trainer.steps}")
        resumption.record(step, machine, trainer.plugin_drift)
    status = Status(
        state="running",
        step=step,
        steps=trainer.steps,
        tokens_seen=trainer.tokens_seen,
        seconds=trainer.elapsed,
        parameters=parameter_summary(composition),
        device=str(trainer.engine.device),
        ranks=trainer.engine.ranks,
    )
    run.write_status(status)
    write_record(run.path / "sizes.json", size_table(composition))


def _trained(trainer: Trainer) -> dict[str, Any]:
    """The command's result."""
    from penstock.train.compose import parameter_summary

    first = trainer.engine.rank == 0
    learnt = trainer.what_was_learnt() if first else {}
    if learnt:
        write_json(trainer.run.path / "learnt.json", learnt)
    return {
        "run_dir": str(trainer.run.path),
        "expert_layers": len(trainer.model.routers),
        "seconds": round(trainer.elapsed, 2),
        "train_tokens": trainer.tokens_seen,
        "tokens_per_second": round(trainer.tokens_seen / trainer.elapsed, 1),
        "steps": trainer.steps,
        "parameters": parameter_summary(trainer.composition).to_json(),
        **({"learnt": learnt} if learnt else {}),
    }


def _require_buildable(config: RunConfig) -> None:
    """Builds the model on the meta device, and the objective without data: what only the built object can tell is told
    before any work."""
    from penstock.train.compose import compose_model, planned_vocabulary

    compose_model(config, planned_vocabulary(config), "meta")
    config.train.objective.build()


def _plan(config: RunConfig) -> dict[str, Any]:
    """What a run would be, from the model on the meta device; reads no data."""
    import math

    from penstock.train.compose import (
        compose_model,
        compose_optimizer,
        parameter_summary,
        pick_device,
        planned_vocabulary,
        size_table,
    )

    composition = compose_model(config, planned_vocabulary(config), "meta")
    compose_optimizer(config, composition.model)
    config.train.objective.build()
    per_step = config.train.batch_size * config.data.sequence_length
    return {
        "name": config.name,
        "device": str(pick_device(config.train.device)),
        "steps": math.ceil(config.train.tokens / per_step),
        "tokens_per_step": per_step,
        "parameters": parameter_summary(composition).to_json(),
        "sizes": as_json(size_table(composition)),
        "components": plugin_lock(config),
    }


def _plan_text(plan: dict[str, Any]) -> str:
    parameters = plan["parameters"]
    rows = [(role, f"{count:,}") for role, count in parameters["by_role"].items()]
    rows += [("total", f"{parameters['total']:,}"), ("trained", f"{parameters['trained']:,}")]
    rows += [("active per token", f"{parameters['active']:,}")]
    components = [(c["kind"], c["name"], f"{c['distribution']} {c['version']}") for c in plan["components"]]
    return "\n\n".join(
        [
            f"{plan['name']}: {plan['steps']:,} steps of {plan['tokens_per_step']:,} tokens on {plan['device']}",
            output.table(("parameters", "count"), rows),
            output.table(("stored as", "size"), [(s["format"], output.human_bytes(s["bytes"])) for s in plan["sizes"]]),
            output.table(("kind", "component", "from"), components),
            "nothing was written: this was a dry run",
        ]
    )
