"""What a worker of a sweep does: trains one run up to a rung, measures it there, and writes what it found.

A worker that is killed loses what its run did since the last checkpoint; the next one continues the same run.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.metrics import token_perplexity
from penstock.evaluate.evaluation import heldout_tokens
from penstock.hooks.config import ConfigDocument
from penstock.hooks.discovery import Selection
from penstock.hooks.problems import ProblemError, failed
from penstock.hooks.registry import Registry
from penstock.profile.atlas import tables_of
from penstock.profile.profiling import profile_figures, record_trace
from penstock.profile.subject import subject_of_run
from penstock.run import messages
from penstock.run.config import RunConfig, load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.records.origin import Environment
from penstock.run.records.record import Record, read_record
from penstock.run.records.sweep import Balance, HeldoutBytes, RungResult
from penstock.sweep.data import data_of
from penstock.sweep.files import SweepFiles, TrialFiles
from penstock.sweep.heldout import pieces_of
from penstock.train.checkpoint import newest_checkpoint
from penstock.train.restore import RestoredRun, restore_run
from penstock.train.reuse import run_of
from penstock.train.training import train_alone

COMPARED = ("all", "final")
"""Phases whose runs the tables compare."""
PATIENCE = 10.0  # seconds in which a killed worker's lock is released


@dataclass(frozen=True, slots=True)
class RungJob(Record):
    """A run, and how far to train it. `config` and `overrides` make its config, `runs` is the folder of all runs,
    `sweep` that of this sweep and `trial` that of the run's results; `whole`: the run ends here. A run that begins
    continues the trunk of the run whose results are in `trunk`. `data` is a hash of the data that it has to read."""

    config: str
    overrides: list[str]
    runs: str
    sweep: str
    trial: str
    cell: str
    key: str
    phase: str
    seed: int
    tokens: int
    whole: bool
    trunk: str | None = None
    data: str | None = None
    heldout_bytes: int | None = None
    no_plugins: bool = False
    only: list[str] = field(default_factory=lambda: list[str]())
    files: list[str] = field(default_factory=lambda: list[str]())


def train_to_rung(argument: dict[str, Any]) -> dict[str, Any]:
    """Trains and measures what a `RungJob` says, unless that has been done. Raises `ProblemError` for a run that
    diverges and for figures that are not numbers."""
    job = RungJob.from_json(argument)
    trial = TrialFiles(Path(job.trial))
    if trial.result(job.tokens) is None:
        with messages.shown(output.note, output.warn):  # in the worker's log
            _train(job, trial)
    return {}


def _train(job: RungJob, trial: TrialFiles) -> None:
    registry = _registry(job.no_plugins, tuple(job.only), tuple(job.files))
    config, document = load_run_config(Path(job.config), job.overrides, registry)
    until = math.ceil(job.tokens / (config.train.batch_size * config.data.sequence_length))
    run = _run(job, trial, config, document, until, registry)
    step = _step(run)
    if step != until or (job.whole and run.status().state != "finished"):
        _wait_until_free(run)
        train_alone(
            config,
            document,
            Path(job.runs),
            registry,
            overrides=job.overrides,
            resume=str(run.path),
            fork=_trunk(job) if step == 0 else None,
            until=None if job.whole else until,
        )
    if not _reads(run, job):
        what, fix = "the corpus has changed while the sweep was trained", "give the same command again"
        raise failed("other-data", what, str(run.path), fix)
    _measure(job, trial, restore_run(run.path, registry))


def _trunk(job: RungJob) -> Path | None:
    return None if job.trunk is None else TrialFiles(Path(job.trunk)).run(Path(job.sweep))


@lru_cache(maxsize=1)  # a worker does many jobs of one sweep
def _registry(no_plugins: bool, only: tuple[str, ...], files: tuple[str, ...]) -> Registry:
    return Registry.discover(Selection(no_plugins=no_plugins, only=only, files=files))


def _run(
    job: RungJob, trial: TrialFiles, config: RunConfig, document: ConfigDocument, until: int, registry: Registry
) -> RunDirectory:
    """The run to train or measure: the one that has begun, unless it is beyond the rung, as it is if the rung was added
    since. It then stays the trial's run, and another one beside it is trained up to the rung. A run that nothing points
    to is one of this config from before the sweep kept such files, or a new one."""
    sweep, runs = SweepFiles(Path(job.sweep)), Path(job.runs)
    paths = (trial.run(sweep.folder), trial.beside(sweep.folder))
    begun = [run for path in paths if path is not None and _reads(run := RunDirectory(path), job)]
    if (fits := next((run for run in begun if _step(run) <= until), None)) is not None:
        return fits
    found = run_of(runs, config, without=sweep.claimed())
    if found is None or _step(found) > until or not _reads(found, job):
        found = RunDirectory.create(runs, config, document, job.overrides, registry)
    trial.write_run(found.path, beside=bool(begun))
    return found


def _reads(run: RunDirectory, job: RungJob) -> bool:
    """Whether a run has read no other data than its job says."""
    return job.data is None or data_of(run.path) in (job.data, None)


def _step(run: RunDirectory) -> int:
    checkpoint = newest_checkpoint(run.checkpoints, lambda _: None)
    return 0 if checkpoint is None else checkpoint.step


def _wait_until_free(run: RunDirectory) -> None:
    """A worker that was killed a moment ago may still hold the run."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with run.lock():
                return
        except ProblemError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _measure(job: RungJob, trial: TrialFiles, restored: RestoredRun) -> None:
    """Writes the figures of the run's newest checkpoint; of the whole run also the load of its experts."""
    pieces = pieces_of(heldout_tokens(restored.dataset), restored.tokenizer, job.heldout_bytes)
    nll_N = token_nll(restored.model, pieces.token_N, sequence_length=restored.config.data.sequence_length)
    bits_P = pieces.bits(nll_N)
    bits = float(bits_P.sum()) / int(pieces.byte_P.sum())
    if not math.isfinite(bits):
        what = f"bits_per_byte became {bits} after {job.tokens:,} tokens"
        raise failed("diverged", what, str(restored.path), "lower the learning rate of this cell")
    SweepFiles(Path(job.sweep)).write_heldout(pieces.text, HeldoutBytes(pieces.byte_P.tolist()))
    if job.whole and job.phase in COMPARED and restored.model.routers:
        trial.write_balance(_balance(restored))
    result = RungResult(
        cell_key=job.key,
        cell=job.cell,
        phase=job.phase,
        seed=job.seed,
        tokens=job.tokens,
        steps=restored.step,
        bits_per_byte=bits,
        perplexity=token_perplexity(nll_N),
        loss=float(nll_N.mean()),
        text=pieces.text,
        text_bytes=pieces.text_bytes,
        tokenizer=restored.tokenizer.hash,
        seconds=restored.run.status().seconds or 0.0,
        machine=_machine(restored.run),
        document_bits=bits_P.tolist(),
    )
    trial.write_result(result)


def _balance(restored: RestoredRun) -> Balance:
    """The load of experts over all held-out tokens."""
    profile = profile_figures(tables_of(record_trace(subject_of_run(restored))))
    return Balance(
        max_violation=profile.max_violation_global,
        max_violation_worst=max(layer.max_violation or 0.0 for layer in profile.layers),
        dead_experts=sum(layer.dead_experts or 0.0 for layer in profile.layers),
    )


def _machine(run: RunDirectory) -> str | None:
    """The processor and threads that trained the run, as recorded."""
    found = read_record(Environment, run.path / "environment.json")
    if found is None:
        return None
    threads = f"{found.threads} threads" if found.threads else ""
    return ", ".join(filter(None, (found.processor or found.platform, threads))) or None
