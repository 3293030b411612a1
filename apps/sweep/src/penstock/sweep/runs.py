"""The runs of a sweep: reused if finished, continued if interrupted, and measured once."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from penstock.eval_suite.runner import run_task
from penstock.eval_suite.tasks import Heldout
from penstock.evaluate.evaluation import heldout_text, heldout_tokens, task_context
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.profile.atlas import tables_of
from penstock.profile.profiling import profile_figures, record_trace
from penstock.profile.subject import subject_of_run
from penstock.run.config import RunConfig, load_run_config
from penstock.run.directory import RunDirectory
from penstock.run.records.evaluation import heldout_figure
from penstock.run.records.origin import Environment
from penstock.run.records.record import read_record, write_record
from penstock.run.records.sweep import RunFigures, SweptRun
from penstock.sweep.grid import Cell, Sweep
from penstock.train.compose import active_parameters, compose_model, pick_device, planned_vocabulary
from penstock.train.restore import RestoredRun, restore_run
from penstock.train.reuse import finished, run_of
from penstock.train.training import train_alone

FIGURES = "sweep.json"
"""File in the run directory: what the sweep measured for the run."""


def train_and_measure(sweep: Sweep, cell: Cell, seed: int, runs: Path, registry: Registry) -> SweptRun:
    """The figures of one run, which is first trained or continued if needed."""
    run = run_of(runs, cell.configs[seed])
    if run is None or not finished(run):
        overrides = cell.arguments(seed)
        config, document = load_run_config(sweep.config_file, overrides, registry)
        resume = str(run.path) if run else None
        trained = train_alone(config, document, runs, registry, overrides=overrides, resume=resume)
        run = RunDirectory(Path(trained.run_dir))
    path = run.path / FIGURES
    figures = read_record(RunFigures, path)
    if figures is None or figures.text is None:
        figures = measure(restore_run(run.path, registry))
        write_record(path, figures)
    return SweptRun(**figures.to_json(), cell=cell.name, seed=seed, run=str(run.path))


def measure(restored: RestoredRun) -> RunFigures:
    """The figures of a trained run that a sweep compares. All held-out text is read, once for the likelihood and once
    for the routing; seconds are those of training only."""
    heldout = heldout_tokens(restored.dataset)
    context = task_context(restored.config, restored.tokenizer, heldout)
    scored = run_task(Heldout(), restored.model, context)
    status = restored.run.status()
    assert status.tokens_seen is not None  # the run is finished
    assert status.seconds is not None
    active = active_parameters(restored.composition, each_use=True)
    text = heldout_text(restored.tokenizer, heldout)
    figures = RunFigures(
        bits_per_byte=heldout_figure(scored.metrics) or math.nan,
        tokens=status.tokens_seen,
        seconds=status.seconds,
        active_parameters=active,
        flops=6 * active * status.tokens_seen,
        text=text.sha256,
        text_bytes=text.bytes,
        machine=_machine(restored.run),
    )
    if not restored.model.routers:
        return figures
    profile = profile_figures(tables_of(record_trace(subject_of_run(restored))))
    return replace(
        figures,
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


def require_equal_flops(sweep: Sweep) -> dict[str, int]:
    """Active parameters of every cell, a shared one for each use, from models on the meta device; raises
    `ProblemError` if cells differ by more than the sweep allows."""
    active: dict[str, int] = {}
    for cell in sweep.cells:
        config = next(iter(cell.configs.values()))
        composition = compose_model(config, planned_vocabulary(config), "meta")
        active[cell.name] = active_parameters(composition, each_use=True)
    base, allowed = active[sweep.baseline], sweep.settings.flops_tolerance
    problems = [
        Problem(
            "unequal-flops",
            f"cell '{name}' has {count:,} active parameters, {count / base - 1:+.1%} from the baseline's {base:,}",
            "axes",
            "make the cells equal in size, or raise flops_tolerance",
        )
        for name, count in active.items()
        if abs(count / base - 1) > allowed
    ]
    if problems:
        raise ProblemError(problems)
    return active


def seconds_per_token(config: RunConfig, steps: int = 3) -> float:
    """Seconds per run, from the fastest of a few forward and backward passes on random tokens after a warm-up pass: the
    cost of training on this machine without optimizer and data."""
    device = pick_device(config.train.device)
    composition = compose_model(config, planned_vocabulary(config), device)
    size = (config.train.batch_size // config.train.micro_batches, config.data.sequence_length + 1)
    window_BS = torch.randint(0, composition.model.vocabulary_size, size, generator=torch.Generator().manual_seed(0))
    window_BS = window_BS.to(device)
    seconds = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        composition.model.next_token_loss(window_BS[:, :-1], window_BS[:, 1:]).loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:]) / (size[0] * (size[1] - 1))
