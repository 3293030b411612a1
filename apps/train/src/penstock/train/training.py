"""`prepare` and `train` as functions that other commands call too."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.cli.output import human_bytes
from penstock.cli.stage_progress import StageProgress
from penstock.data_prep.dataset import TokenDataset
from penstock.hooks.atomic import write_json
from penstock.hooks.config import ConfigDocument
from penstock.hooks.contracts import Engine, Objective, Schedule, Started
from penstock.hooks.problems import ExitCode, Problem, ProblemError, failed
from penstock.hooks.registry import Registry
from penstock.run import messages
from penstock.run.checks import missing_files_of_other_commands
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.records.record import write_record
from penstock.run.records.training import Status, Trained
from penstock.train.checkpoint import last_good
from penstock.train.checks import Planned, require_for_start
from penstock.train.compose import (
    Composition,
    compose_model,
    compose_optimizer,
    compose_schedule,
    parameter_summary,
    size_table,
)
from penstock.train.data import find_data, prepare_data, record_data, training_data
from penstock.train.fork import begin_from, find_origin
from penstock.train.launch import launched, threads_of
from penstock.train.layers import layer_passes
from penstock.train.loop import Interrupted, Trainer
from penstock.train.memory import keep_freed_memory
from penstock.train.model_shards import require_in_place
from penstock.train.numerics import record_numerics
from penstock.train.ranks import (
    done_on_all,
    joined,
    micro_batches,
    require_on_all,
    require_one_process,
    require_same,
    require_same_plugins,
)
from penstock.train.resume import Resumption, check_resume, find_run
from penstock.train.signals import terminate_as_interrupt
from penstock.train.step_module import StepModule

LEARNED_SHARING = "sharing.json"
LOGS = "logs"


def prepare_run(config: RunConfig, runs: Path) -> dict[str, Any]:
    """Turns the config's corpus into a tokenizer and token shards under `runs`, or finds them there. Returns their
    folder, the seconds it took and the sizes of the splits."""
    begun = time.perf_counter()
    with terminate_as_interrupt(), StageProgress() as progress:
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


def train_run(
    config: RunConfig,
    document: ConfigDocument,
    runs: Path,
    registry: Registry,
    *,
    overrides: Sequence[str] = (),
    resume: str | None = None,
    fork: Path | None = None,
    allow_config_drift: bool = False,
    allow_plugin_drift: bool = False,
    until: int | None = None,
) -> Trained | None:
    """Trains the config's model in a new run under `runs`, or in the one that `resume` names ("auto": the newest
    unfinished run of this config). Every rank calls it; all but rank 0 return None. A run without a checkpoint begins
    with the trunk of the run at `fork`, if that is given (see `penstock.train.fork`).

    After step `until` the run pauses with a checkpoint; resuming it gives the bits of a run that never paused.

    Raises `ProblemError` for what cannot be built, before any work, and for a run that may not be continued; raises
    `KeyboardInterrupt` once an interrupted run has its checkpoint.
    """
    with joined(config) as engine:
        first = engine.rank == 0
        planned = Planned(config, runs)
        require_on_all(lambda: require_for_start(planned, document), engine.gather)
        if first:
            _warn_of_missing_files(config)
            _say_what_copies_take(planned)
        found = find_run(runs, config, resume, allow_config_drift=allow_config_drift) if first and resume else None
        origin = find_origin(config, fork, registry) if first and fork else None
        made = (found or RunDirectory.create(runs, config, document, overrides, registry)) if first else None
        run = engine.share(made)
        assert run is not None  # rank 0's
        require_on_all(lambda: _require_seen(run), engine.gather)
        recorded = _failed_start_recorded(run) if first else nullcontext()
        log = messages.kept(run.path / LOGS / f"rank-{engine.rank}.log") if engine.ranks > 1 else nullcontext()
        lock = run.lock() if first else nullcontext()
        with _disk_errors_named(run), log, terminate_as_interrupt(), _disk_errors_named(run), lock, recorded:
            resumption = found and check_resume(
                found, config, allow_config_drift=allow_config_drift, allow_plugin_drift=allow_plugin_drift
            )
            if resumption and not resumption.changes and run.status().state == "created":
                resumption = None  # the launcher of this rank has just made it
            if origin:
                begin_from(origin, run)
            result = _train(
                config, run, runs, engine, resumption, registry, allow_plugin_drift=allow_plugin_drift, until=until
            )
    return result if first else None


def train_alone(
    config: RunConfig,
    document: ConfigDocument,
    runs: Path,
    registry: Registry,
    *,
    overrides: Sequence[str] = (),
    resume: str | None = None,
    fork: Path | None = None,
    until: int | None = None,
) -> Trained:
    """As `train_run`, for a command that is one process and goes on with the result."""
    require_one_process(config.train)
    trained = train_run(config, document, runs, registry, overrides=overrides, resume=resume, fork=fork, until=until)
    assert trained is not None  # this is rank 0
    return trained


def train_on_ranks(
    config: RunConfig,
    document: ConfigDocument,
    runs: Path,
    registry: Registry,
    *,
    ranks: int,
    max_restarts: int,
    arguments: Sequence[str],
    overrides: Sequence[str],
    resume: str | None,
    fork: Path | None,
    allow_config_drift: bool,
) -> None:
    """Trains as so many processes, each of which is `penstock ARGUMENTS`. The run is made here and continued by the
    ranks, so that a restart continues it too. Raises `ProblemError` like `train_run`, and with the exit code of a rank
    that failed, which has said why."""
    require_for_start(Planned(config, runs), document)
    micro_batches(config.train, ranks)
    threads_of(ranks)
    found = find_run(runs, config, resume, allow_config_drift=allow_config_drift) if resume else None
    origin = find_origin(config, fork, registry) if fork else None
    run = found or RunDirectory.create(runs, config, document, overrides, registry)
    if origin:
        begin_from(origin, run)
    command = [sys.executable, "-m", "penstock.cli", *registry.selection.arguments(), *arguments]
    command += ["--runs", str(runs), "--resume", str(run.path)]
    with _disk_errors_named(run):
        launched(command, ranks, run.path / LOGS, max_restarts=max_restarts)


def _require_seen(run: RunDirectory) -> None:
    """Every rank writes there: on a machine of its own, its part of a checkpoint would be missing when it is read."""
    if not run.path.is_dir():
        what, fix = "the run's folder is not there", "give --runs a folder that all machines share"
        raise ProblemError(Problem("run-not-shared", what, str(run.path), fix))


def _warn_of_missing_files(config: RunConfig) -> None:
    """Training does not end for a file that a later command reads, and may take hours until that one says so."""
    for problem in missing_files_of_other_commands(config):
        messages.warn(f"{problem}; training does not need it")


def _say_what_copies_take(planned: Planned) -> None:
    if copied := planned.copied_bytes:
        what = f"checkpoints are written beside training, from a copy that takes {human_bytes(copied)} of memory"
        messages.note(f"{what}; train.checkpoint_async=false does without")


@contextmanager
def _failed_start_recorded(run: RunDirectory) -> Iterator[None]:
    """A run that fails before its first step says so in its status, instead of being "created" for ever."""
    try:
        yield
    except Exception as error:
        if run.status().state == "created":
            run.write_status(Status(state="failed", message=str(error)))
        raise


@contextmanager
def _disk_errors_named(run: RunDirectory) -> Iterator[None]:
    """A disk that is full, read-only or gone ends the run with a `Problem` that says what is not lost."""
    try:
        yield
    except BrokenPipeError:  # the reader of stdout is gone; the disk is fine
        raise
    except OSError as error:
        fix = f"{last_good(run.checkpoints)}; after fixing this, continue with --resume {run.path}"
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
    until: int | None,
) -> Trained:
    """Trains on this rank. Rank 0 alone prepares data, writes and speaks."""
    first = engine.rank == 0

    def prepare() -> dict[str, Any]:
        try:
            return _prepared(config, run, runs, resumption) if first else {}
        finally:
            engine.barrier()  # a wait that may take long

    prepared = engine.share(done_on_all(prepare, engine.gather))
    if first and not prepared["reused"]:
        run.record_stage("prepare", prepared["seconds"])

    begun = time.perf_counter()
    keep_freed_memory()
    trainer = _trainer(config, run, Path(prepared["data"]), engine)
    step = trainer.resume(allow_plugin_drift=allow_plugin_drift)
    earlier = trainer.elapsed  # of the steps before the checkpoint; steps lost to a kill are not counted twice
    done = step >= trainer.steps and run.status().state == "finished"
    if first and not done:
        _record_beginning(trainer, step, resumption)
    try:
        trainer.train(until)
        if first and not done and trainer.step == trainer.steps:
            _record_learned_sharing(run, trainer.composition)
    except Interrupted:
        if first:
            messages.note(f"continue with: {_again(run, runs, registry, engine.ranks)}")
        raise (KeyboardInterrupt() if first else ProblemError([], ExitCode.INTERRUPTED)) from None
    finally:
        if first and not done:
            run.record_stage("train", earlier + time.perf_counter() - begun)
    return _trained(trainer, already=done)


def _again(run: RunDirectory, runs: Path, registry: Registry, ranks: int) -> str:
    """The command that continues an interrupted run."""
    train = ["train", run.path / "config.resolved.yaml", "--resume", run.path, "--runs", runs]
    words = ["penstock", *registry.selection.arguments(), *train, *(["--ranks", ranks] if ranks > 1 else [])]
    return shlex.join(str(part) for part in words)


def _prepared(config: RunConfig, run: RunDirectory, runs: Path, resumption: Resumption | None) -> dict[str, Any]:
    """The data of a new run; that of a resumed one is what it was trained on, even if the corpus has changed since."""
    found = find_data(run, runs) if resumption is not None else None
    return prepare_run(config, runs) if found is None else {"data": str(found), "reused": True, "seconds": 0.0}


def _trainer(config: RunConfig, run: RunDirectory, data: Path, engine: Engine) -> Trainer:
    """Assembles everything that trains; raises `ProblemError` if ranks differ in it."""
    first = engine.rank == 0
    dataset = TokenDataset.open(data, verify=first)
    composition, objective = assembled(config, dataset, engine)
    trainer = Trainer(config, run, dataset, composition, objective, engine)
    require_same_plugins(trainer.plugins, engine.gather)
    require_same({"data": dataset.hash, **objective.fingerprint()}, engine.gather, "give all ranks the same data")
    return trainer


def assembled(
    config: RunConfig,
    dataset: TokenDataset,
    engine: Engine,
    *,
    objective: Objective | None = None,
    schedule: Schedule | None = None,
) -> tuple[Composition, Objective]:
    """The model and the objective of the config, which the engine holds from then on with the optimizer. A prepared
    `objective` and a `schedule` take the place of those in the config."""
    composition = compose_model(
        config, dataset.manifest.vocabulary_size, engine.device, end_of_text=dataset.tokenizer().end_of_text
    )
    learns: Objective = objective or config.train.objective.build()
    if objective is None:
        learns.prepare(training_data(config, dataset))
    engine.prepare(
        StepModule(composition.model, learns, layer_passes(composition.model, config.train)),
        lambda module: compose_optimizer(config, module.model, composition.shared.roles()),
        schedule or compose_schedule(config),
    )
    require_in_place(composition.model, composition.added_state())
    return composition, learns


def _record_beginning(trainer: Trainer, step: int, resumption: Resumption | None) -> None:
    run, composition = trainer.run, trainer.composition
    machine = record_numerics(run, trainer.engine.device)
    if resumption is not None:
        messages.note(f"resuming {run.path} from step {step} of {trainer.steps}")
        unlike = trainer.balancing.unlike
        if trainer.cut_before and (change := trainer.cut.change_from(trainer.cut_before, unlike=unlike)):
            messages.note(change)
        resumption.record(step, machine, trainer.plugin_drift)
    elif isinstance(trainer.model, Started):
        for note in trainer.model.start_notes:
            messages.note(note)
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
    record_data(run, trainer.dataset)
    write_record(run.path / "sizes.json", size_table(composition))


def _record_learned_sharing(run: RunDirectory, composition: Composition) -> None:
    """Which parameters are one, if training learned it, and the sizes that follow."""
    plan = composition.shared.hardened()
    if plan is None:
        return
    write_json(run.path / LEARNED_SHARING, {"groups": [list(group) for group in plan.groups]})
    write_record(run.path / "sizes.json", size_table(composition))
    run.write_status(replace(run.status(), parameters=parameter_summary(composition)))
    messages.note(f"which layers are one was learned: {run.path / LEARNED_SHARING}")


def _trained(trainer: Trainer, *, already: bool) -> Trained:
    """The result of the run."""
    learnt = trainer.what_was_learnt()
    if learnt:
        write_record(trainer.run.path / "learnt.json", learnt)
    return Trained(
        run_dir=str(trainer.run.path),
        expert_layers=len(trainer.model.routers),
        seconds=round(trainer.elapsed, 2),
        train_tokens=trainer.tokens_seen,
        tokens_per_second=round(trainer.tokens_seen / trainer.elapsed, 1),
        steps=trainer.steps,
        parameters=parameter_summary(trainer.composition),
        learnt=learnt or None,
        already_finished=already or None,
    )
