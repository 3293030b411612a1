"""`penstock sweep --dry-run`: what is left of a sweep, priced from steps that are timed here."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from penstock.cli import output
from penstock.data_prep.dataset import TokenDataset
from penstock.eval_suite.likelihood import token_nll
from penstock.hooks.contracts import Batch, Inputs
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Choice
from penstock.pages.formats import number
from penstock.run.config import RunConfig
from penstock.run.records.record import ABSENT, Record
from penstock.run.records.sweep import CellShape
from penstock.sweep.controller import Controller
from penstock.sweep.grid import Cell
from penstock.sweep.measuring import measures
from penstock.sweep.phases import Phase
from penstock.train.compose import Composition, compose_model, compose_optimizer, pick_device, planned_vocabulary
from penstock.train.data import content_settings, data_folder
from penstock.train.layers import layer_passes
from penstock.train.objectives.next_token import NextToken
from penstock.train.step_module import StepModule

TIMED_STEPS, ENOUGH_SECONDS = 3, 3.0
"""Steps that are timed after one that warms up, and the seconds after which no other begins."""
ROWS = 16  # windows of a timed evaluation, which is the batch of `token_nll`


@dataclass(frozen=True, slots=True)
class CellPrice(Record):
    """The cost of one cell's runs in one phase. `finished` of its `runs` have a result. Of a later phase it is not
    known which cells will enter it, so its `cell` is "any 3", and its runs cost the mean of all cells."""

    cell: str
    active_parameters: int
    tokens: int
    flops: int
    runs: int
    finished: int
    seconds_per_run: float
    phase: str = "all"


@dataclass(frozen=True, slots=True)
class SweepPrice(Record):
    """The estimated cost of what is left of a sweep: `seconds_left` of work, and `seconds_left` over `workers` at once.
    Cells that a rule will stop cost less, and what exceeds a cap of the budget will be left out. `evaluated` says how
    much held-out text is counted; measuring trained models, where the sweep does, is not."""

    name: str
    baseline: str
    cells: list[CellPrice]
    seconds_left: float
    workers: int = 1
    evaluated: str = ""
    measured: bool = False
    hours_cap: float | None = field(default=None, metadata=ABSENT)
    tokens_cap: int | None = field(default=None, metadata=ABSENT)
    runs_cap: int | None = field(default=None, metadata=ABSENT)

    @property
    def wall_seconds(self) -> float:
        return self.seconds_left / min(self.workers, max(1, self.runs_left))

    @property
    def runs_left(self) -> int:
        return sum(cell.runs - cell.finished for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for a token of training, with optimizer, and of evaluation."""

    training: float
    evaluation: float


def workers_of(launcher: Choice) -> tuple[int, int | None]:
    """Workers of a launcher and threads of each, as far as its settings say. Those of this machine have its cores."""
    settings = launcher.settings
    threads: int | None = getattr(settings, "threads", None)
    asked: int | None = getattr(settings, "workers", None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = max(1, cores // (threads or 1))
    if launcher.entry.component.name != "local":
        return asked or at_once, threads
    return min(asked or at_once, at_once), threads and min(threads, cores)


def price_of(walk: Controller, shapes: dict[str, CellShape], workers: int, threads: int | None) -> SweepPrice:
    """Times every cell's model. `threads` are those of a worker; None leaves torch's number."""
    if threads is not None:
        torch.set_num_threads(threads)
    sweep = walk.sweep
    speeds = {cell.name: speed_of(cell.config, cell.vocabulary) for cell in sweep.cells}
    heldout = {cell.name: _heldout_tokens(cell.config, walk.runs, sweep.settings.heldout_bytes) for cell in sweep.cells}
    prices = _rates_of(walk, shapes, speeds)
    for phase in walk.phases:
        cells = walk.at_other_rates if phase.name == "common" else sweep.cells
        of_phase = [
            CellPrice(
                cell=cell.name,
                active_parameters=shapes[cell.name].active_parameters,
                tokens=phase.tokens(cell),
                flops=shapes[cell.name].flops_per_token * phase.tokens(cell),
                runs=len(phase.seeds),
                finished=sum(walk.has_result(cell, phase, seed) for seed in phase.seeds),
                seconds_per_run=_seconds(
                    cell.config, phase, _trained_tokens(walk, phase, cell), speeds[cell.name], heldout[cell.name]
                ),
                phase=phase.name,
            )
            for cell in cells
        ]
        prices += [_of_any(of_phase, walk.finalists)] if phase.name == "final" else of_phase
        prices += _confirmed(walk, phase, of_phase)
    known = [each for each in heldout.values() if each is not None]
    return SweepPrice(
        name=sweep.settings.name,
        baseline=sweep.baseline.name,
        cells=prices,
        seconds_left=sum(price.seconds_per_run * (price.runs - price.finished) for price in prices),
        workers=workers,
        evaluated=f"{max(known):,} held-out tokens each time" if known else "",
        measured=measures(sweep.settings),
        hours_cap=sweep.settings.budget.hours,
        tokens_cap=sweep.settings.budget.tokens,
        runs_cap=sweep.settings.budget.runs,
    )


def _trained_tokens(walk: Controller, phase: Phase, cell: Cell) -> int:
    """Tokens that a run trains itself, on average over seeds: one that continues a trunk begins after it."""
    return phase.tokens(cell) - round(np.mean([walk.trunk_tokens(cell, phase, seed) for seed in phase.seeds]))


def _rates_of(walk: Controller, shapes: dict[str, CellShape], speeds: dict[str, Speed]) -> list[CellPrice]:
    """What the ramps cost that find rates, if none of them ends early."""
    rate = walk.rates.settings
    if rate.use != "lr-find":
        return []
    prices: list[CellPrice] = []
    for cell in walk.sweep.cells:
        ramps = walk.rates.ramps(cell)
        tokens, shape = rate.steps * cell.config.tokens_per_step, shapes[cell.name]
        finished = ramps if walk.rates.of(cell) is not None else 0
        seconds = tokens * speeds[cell.name].training
        prices.append(
            CellPrice(
                cell=cell.name,
                active_parameters=shape.active_parameters,
                tokens=tokens,
                flops=shape.flops_per_token * tokens,
                runs=ramps,
                finished=finished,
                seconds_per_run=seconds,
                phase="rates",
            )
        )
    return prices


def speed_of(config: RunConfig, vocabulary: int | None = None) -> Speed:
    """From the fastest of a few steps on random tokens after one that warms up, and from one evaluation."""
    device = pick_device(config.train.device)
    composition = compose_model(config, vocabulary or planned_vocabulary(config), device)
    length, rows = config.data.sequence_length, config.train.batch_size // config.train.micro_batches
    random = torch.Generator().manual_seed(0)
    window_BS = torch.randint(0, composition.model.vocabulary_size, (rows, length + 1), generator=random)
    batch = Batch(Inputs(window_BS[:, :-1].to(device)), window_BS[:, 1:].to(device), rows * length)
    step = _seconds_per_step(config, composition, batch)
    stream_N = window_BS.flatten().repeat(-(-ROWS // rows))[: ROWS * length + 1].numpy()
    begun = time.perf_counter()
    token_nll(composition.model, stream_N, sequence_length=length)
    return Speed(step / (config.train.batch_size * length), (time.perf_counter() - begun) / (ROWS * length))


def _seconds_per_step(config: RunConfig, composition: Composition, batch: Batch) -> float:
    """All micro-batches of a step, and the optimizer. Balancing takes part in the loss and is not timed."""
    objective = NextToken()
    engine = config.train.engine.build(device=pick_device(config.train.device))
    engine.prepare(
        StepModule(composition.model, objective, layer_passes(composition.model, config.train)),
        lambda module: compose_optimizer(config, module.model, composition.shared.roles()),
        lambda progress: 1.0,
    )
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < 2 or (len(seconds) <= TIMED_STEPS and time.perf_counter() - begun < ENOUGH_SECONDS):
        before = time.perf_counter()
        for part in range(config.train.micro_batches):
            loss = engine.forward(batch).loss / (batch.units * config.train.micro_batches)
            engine.backward(loss, last=part == config.train.micro_batches - 1)
        engine.clip(config.train.gradient_clip)
        engine.step(0.5)
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - before)
    return min(seconds[1:])


def _seconds(config: RunConfig, phase: Phase, tokens: int, speed: Speed, heldout: int | None) -> float:
    """A run with its evaluations: those of the config, one at each rung, and one more of the load of experts."""
    train = config.train
    steps = -(-tokens // (train.batch_size * config.data.sequence_length))
    periodic = 1 if train.evaluate_every is None else steps // train.evaluate_every + 1
    evaluated = periodic * min(train.evaluate_tokens, heldout or train.evaluate_tokens)
    evaluated += (heldout or 0) * (len(phase.rungs) + 1 + (phase.name in ("all", "final")))
    return tokens * speed.training + evaluated * speed.evaluation


def _confirmed(walk: Controller, phase: Phase, prices: Sequence[CellPrice]) -> list[CellPrice]:
    """The price of the runs with further seeds, whoever will have them."""
    runs, further = walk.sweep.settings.confirm, walk.sweep.settings.seeds[1:]
    if runs is None or phase.name not in ("all", "final"):
        return []
    finished = sum(walk.has_result(cell, phase, seed) for cell in walk.sweep.cells for seed in further)
    runs = min(runs, walk.finalists * len(further))
    return [replace(_of_any(prices, 1), cell="the best", runs=runs, finished=min(runs, finished))]


def _of_any(prices: Sequence[CellPrice], count: int) -> CellPrice:
    """The price of the finalists, whoever they will be."""
    count = min(count, len(prices))

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return CellPrice(
        cell=f"any {count}",
        active_parameters=round(mean([price.active_parameters for price in prices])),
        tokens=round(mean([price.tokens for price in prices])),
        flops=round(mean([price.flops for price in prices])),
        runs=count * prices[0].runs,
        finished=min(count * prices[0].runs, sum(price.finished for price in prices)),
        seconds_per_run=mean([price.seconds_per_run for price in prices]),
        phase=prices[0].phase,
    )


def _heldout_tokens(config: RunConfig, runs: Path, limit: int | None) -> int | None:
    """Tokens that a result reads, from the prepared data; None if it is not prepared."""
    try:
        folder = data_folder(runs, config, config.data.corpus.build(), content_settings(config))
        split = TokenDataset.open(folder, verify=False).manifest.splits["heldout"]
    except (OSError, ProblemError):
        return None
    share = 1.0 if limit is None or not split.text_bytes else min(1.0, limit / split.text_bytes)
    return round(split.tokens * share)


def price_text(price: SweepPrice) -> str:
    rows = [
        (
            cell.cell,
            cell.phase,
            f"{cell.active_parameters:,}",
            f"{cell.tokens:,}",
            f"{cell.flops:.2e}",
            f"{cell.finished} of {cell.runs}",
            f"{cell.seconds_per_run:.0f}",
        )
        for cell in price.cells
    ]
    head = ("cell", "phase", "active parameters", "tokens per run", "FLOPs per run", "runs finished", "s per run")
    what = f"evaluation of {price.evaluated}" if price.evaluated else "no evaluation of held-out text, as it is unknown"
    what += " before `penstock prepare`, and so is whether it fills the vocabularies" if not price.evaluated else ""
    measured = ", and measuring trained models comes on top" if price.measured else ""
    workers = f"{price.workers} worker{'s' * (price.workers > 1)}"
    return (
        f"{output.table(head, rows)}\n\n{_caps_text(price)}about {_span(price.wall_seconds)} remain on {workers}, "
        f"extrapolated from a few steps timed here, optimizer included, with {what}; cells that a rule stops take "
        f"less{measured}\nnothing was written: this was a dry run"
    )


def _caps_text(price: SweepPrice) -> str:
    """What the budget allows beside what the sweep has; empty without a budget."""
    runs = [cell for cell in price.cells if cell.phase != "rates"]
    whole = {
        "tokens": (price.tokens_cap, sum(cell.tokens * cell.runs for cell in price.cells)),
        "runs": (price.runs_cap, sum(cell.runs for cell in runs)),
        "hours": (price.hours_cap, price.seconds_left / 3600),
    }
    capped = [
        f"{_amount(wanted)} {name} for a budget of {_amount(cap)}"
        for name, (cap, wanted) in whole.items()
        if cap is not None
    ]
    return f"the sweep has {', '.join(capped)}, and what exceeds it is capped\n" if capped else ""


def _amount(value: float) -> str:
    """
    >>> _amount(1_200_000), _amount(0.00031), _amount(12.0)
    ('1,200,000', '0.00031', '12.0')
    """
    return f"{value:,}" if isinstance(value, int) else number(value)


def _span(seconds: float) -> str:
    """
    >>> _span(2.4), _span(90), _span(5400), _span(200_000)
    ('2 s', '2 min', '1.5 hours', '2.3 days')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 86400 else f"{seconds / 86400:.1f} days"
