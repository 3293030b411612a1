"""The training loop.

One optimizer step is: count the load, if a loss needs it first; run the micro-batches forward and backward; clip, step,
balance. Batch number s is a pure function of the seed and s, so a run that continues from any checkpoint is
bit-identical to an uninterrupted one.

Every rank runs the same loop, which reaches the model only through the engine. What it decides on (losses, the norm, a
request to stop) is summed over ranks first, so all ranks decide the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from penstock.data_prep.dataset import TokenDataset
from penstock.hooks.contracts import (
    Batch,
    Engine,
    EvaluationObserver,
    Objective,
    Observer,
    PartlyFrozen,
    StagingObserver,
    StepRecord,
    Tracker,
)
from penstock.hooks.problems import ExitCode, Problem, ProblemError, failed
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import plugin_lock
from penstock.train.balancing import Balancing
from penstock.train.checkpoint import Checkpoint, Contents, last_good, newest_checkpoint, tidy, write_checkpoint
from penstock.train.compose import Composition, parameter_summary, routing_header, trained_parameters
from penstock.train.cut import Cut
from penstock.train.data import training_data
from penstock.train.fork import TRUNK, steps_of_trunk
from penstock.train.heldout import Measured, ratio, read_batch, totals
from penstock.train.inputs import moved
from penstock.train.learnt import what_was_learnt
from penstock.train.objectives.next_token import heldout_windows
from penstock.train.progress import Progress
from penstock.train.ranks import done_on_all, micro_batches
from penstock.train.rendezvous import listed
from penstock.train.resume import plugin_drift_refused
from penstock.train.saving import BackgroundSaver
from penstock.train.signals import stop_requests


class Interrupted(Exception):
    """Training stopped because the user asked; a checkpoint was written."""


@dataclass(slots=True)
class Stopwatch:
    """Seconds of one step by part."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


@dataclass(slots=True)
class Sums:
    """Measurements summed over the micro-batches of a step: values, and ratios of a sum and a weight."""

    values: dict[str, Tensor] = field(default_factory=dict)
    ratios: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def add(self, values: Mapping[str, Tensor], ratios: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0) + value.detach()
        for name, (value, weight) in ratios.items():
            before = self.ratios.get(name, (0, 0))
            self.ratios[name] = (before[0] + value.detach(), before[1] + weight.detach())

    def over(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The measurements summed over ranks, in one vector: every rank sees the same numbers and decides the same."""
        parts = [*self.values.values(), *(part for ratio in self.ratios.values() for part in ratio)]
        numbers = iter(total(torch.stack(parts)).tolist())
        values = {name: next(numbers) for name in self.values}
        return values | {name: ratio(next(numbers), next(numbers)) for name in self.ratios}


class Trainer:
    """Trains one composition in one run directory, to which only rank 0 writes and of which only it reports."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        dataset: TokenDataset,
        composition: Composition,
        objective: Objective,
        engine: Engine,
    ) -> None:
        self.config, self.run, self.dataset, self.composition = config, run, dataset, composition
        self.model, self.objective, self.engine = composition.model, objective, engine
        self.writes = engine.rank == 0
        self.parts = micro_batches(config.train, engine.ranks)
        self.cut = Cut.of(engine.ranks, self.parts, config.train.engine)
        self.cut_before: Cut | None = None  # of the checkpoint that the run continues from
        self.tokens_per_step = config.tokens_per_step
        self.steps = config.steps
        self.balancing = Balancing(
            composition.model,
            composition.losses,
            composition.balancers,
            parts=self.parts,
            ranks=engine.ranks,
            total=engine.total,
            routings=engine.routings,
        )
        self.step = 0
        self.tokens_seen = 0  # without padding
        self.elapsed = 0.0
        self.metrics: dict[str, float] = {}
        self.heldout: dict[str, float] | None = None  # of the last evaluation since the run began or went on
        trackers, observers = (config.train.trackers, config.train.observers) if self.writes else ((), ())
        self.trackers: list[Tracker] = done_on_all(
            lambda: [choice.build(run_directory=run.path) for choice in trackers], engine.gather
        )
        self.observers: list[Observer] = done_on_all(
            lambda: [choice.build(run_directory=run.path, header=self._trace_header()) for choice in observers],
            engine.gather,
        )
        self._guarded = composition.guarded
        self.plugins = plugin_lock(config)  # now, because the files may change after they were imported
        self.plugin_drift: list[str] = []
        self._data = {name: record.sha256 for name, record in dataset.manifest.files.items()}
        self._data |= objective.fingerprint()
        self.saver = BackgroundSaver(run.checkpoints, engine, keep=config.train.keep_checkpoints)
        self._saved = 0  # the step of the last checkpoint that was written or begun

    def _trace_header(self) -> dict[str, Any]:
        """What a routing trace of this run says about its model and data."""
        manifest = self.dataset.manifest
        return {
            **routing_header(self.config.name, self.composition.model),
            "data": self.dataset.hash,
            "tokenizer": manifest.tokenizer_sha256,
        }

    def resume(self, *, allow_plugin_drift: bool = False) -> int:
        """Continues from the newest whole checkpoint; returns its step, or 0 if there is no checkpoint. Raises
        `ProblemError`, with nothing changed, if all are damaged, if it does not fit, or if other component code wrote
        it and that is not allowed. `plugin_drift` lists what was allowed."""
        checkpoint = self.engine.share(newest_checkpoint(self.run.checkpoints, messages.warn) if self.writes else None)
        if checkpoint is not None:
            self.plugin_drift = checkpoint.plugin_changes(self.plugins)
            if self.plugin_drift and not allow_plugin_drift:
                raise plugin_drift_refused(self.plugin_drift, checkpoint.path)
            self._load(checkpoint)
        if self.writes:
            tidy(self.run.checkpoints, checkpoint)
            tidy(self.run.path / TRUNK, None)
        for tracker in self.trackers:
            tracker.resume(self.step)
        for observer in self.observers:
            observer.on_resume(self.step)
        return self.step

    def _load(self, checkpoint: Checkpoint) -> None:
        checkpoint.require_tokenizer(self.dataset.manifest.tokenizer_sha256)
        checkpoint.require_base(self.composition.base_hash)
        state = checkpoint.trainer_state()
        if state["data"] != self._data:
            names = sorted(
                name for name in {*self._data, *state["data"]} if state["data"].get(name) != self._data.get(name)
            )
            what = f"the data differs from what the run was trained on ({', '.join(names)})"
            fix = "restore that data, or start a new run"
            prepared = any("/" not in name for name in names)  # those of an objective are "SPLIT/PATH"
            raise failed("other-data", what, str(self.dataset.folder) if prepared else "train.objective", fix)
        try:
            checkpoint.load(self.composition, self.engine)
            self.engine.load(checkpoint.path)
            self.balancing.load_state(state.get("balancing", {}), self.engine.device)
        except (ProblemError, KeyError, RuntimeError, ValueError) as error:
            what = f"the checkpoint does not fit the model and optimizer of this config ({error})"
            fix = "undo the change to the config, or start a new run"
            raise ProblemError(Problem("cannot-continue", what, str(checkpoint.path), fix)) from error
        self.step, self.elapsed, self.cut_before = state["step"], state["elapsed"], Cut.saved(state)
        self.tokens_seen = state.get("tokens", self.step * self.tokens_per_step)  # before it was kept, padding counted
        self._saved = self.step

    def train(self, until: int | None = None) -> None:
        """Runs to the end, or to step `until`, after which it writes a checkpoint and the run is "paused". After a
        signal to stop on any rank, writes a checkpoint and raises `Interrupted`."""
        end = self.steps if until is None else min(until, self.steps)
        try:
            with (
                Progress(self.steps, self.step, tokens=self.tokens_seen, shown=self.writes) as progress,
                stop_requests(reported=self.writes) as asked,
            ):
                self.composition.set_tokens(self.tokens_seen)
                while self.step < end:
                    self.metrics = self._train_step()
                    progress.advance(self.step, self.metrics, self.tokens_seen)
                    self._after_step(last=self.step == self.steps, stop=self.saver.agree(asked()))
                    progress.every_second(lambda: self._status("running"))
            if self.step < self.steps:
                self.saver.finish()
                self._save()
            self._close()
            self._status("finished" if self.step == self.steps else "paused")
        except BaseException as error:
            self.balancing.abandon()
            self.saver.abandon()
            stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
            with suppress(OSError):  # a full disk must not hide the original error
                self._status("interrupted") if stopped else self._status("failed", message=str(error))
                self._close()
            raise

    @cached_property
    def trunk(self) -> int | None:
        """Steps before the schedule decays; see `steps_of_trunk`."""
        return steps_of_trunk(self.config)

    def _after_step(self, *, last: bool, stop: bool) -> None:
        train = self.config.train
        if last or (train.evaluate_every and self.step % train.evaluate_every == 0):
            figures = self._evaluate()
            self.heldout = {name.removeprefix("heldout/"): value for name, value in figures.items()}
            self._log(figures)
            for observer in self.observers:
                if isinstance(observer, EvaluationObserver):
                    observer.on_evaluation(self.step, self.heldout)
        if self.step == self.trunk:
            self.saver.finish()  # what observers still write beside training has the same files
            self._write(self.run.path / TRUNK, keep=1)
        if last or stop:
            self.saver.finish()
            self._save()
        elif self.step % train.checkpoint_every == 0:
            self._begin_to_save() if train.checkpoint_async else self._save()
        if stop and not last:
            raise Interrupted

    def _close(self) -> None:
        for observer in self.observers:
            observer.on_end()
        for tracker in self.trackers:
            tracker.close()

    def _train_step(self) -> dict[str, float]:
        watch = Stopwatch()
        begun = time.perf_counter()
        with watch("data"):
            batches, units, tokens = self._batches()
        with watch("balance"):
            self.balancing.begin(((batch, batch.inputs.real_BS) for batch in batches), tokens=tokens)
        sums = Sums()
        for batch in batches:
            with watch("forward"):
                loss = self._forward(batch, units, sums)
            with watch("backward"):
                self.engine.backward(loss, last=batch is batches[-1])
        losses = sums.over(self.engine.total)
        if not math.isfinite(losses["loss"]):
            raise self._diverged("loss", losses["loss"], fine=bool(sums.values["loss"].isfinite()))
        with watch("optimizer"):
            norm = self.engine.clip(self.config.train.gradient_clip)
            if not math.isfinite(norm):
                raise self._diverged("gradient", norm)
            stepped = {"gradient_norm": norm, **self.engine.step((self.step + 0.5) / self.steps)}
        self.step += 1
        self.tokens_seen += tokens
        self.composition.set_tokens(self.tokens_seen)
        self.composition.shared.end_step(self.step / self.steps, self.engine.total)
        with watch("balance"):
            load, balance = self.balancing.finish(tokens_seen=self.tokens_seen)
        seconds = time.perf_counter() - begun
        self.elapsed += seconds
        metrics = {
            "tokens": self.tokens_seen,
            **losses,
            **stepped,
            "tokens_per_second": tokens / seconds,
            "elapsed": self.elapsed,
            **{f"seconds/{part}": value for part, value in watch.seconds.items()},
        }
        metrics.update(balance)
        self._log(metrics)
        if self.observers:
            record = StepRecord(self.step, self.tokens_seen, metrics, load.counts_LE.cpu().numpy(), load.layers)
            for observer in self.observers:
                observer.on_step(record)
        return metrics

    def _batches(self) -> tuple[list[Batch], int, int]:
        """This rank's micro-batches on its device, and the units and real tokens of the step over all ranks."""
        engine = self.engine
        batches = self.objective.batches(self.step, rank=engine.rank, ranks=engine.ranks, parts=self.parts)
        tokens = sum(_real_tokens(batch) for batch in batches)
        sizes = torch.tensor([sum(batch.units for batch in batches), tokens], device=engine.device)
        units, tokens = engine.total(sizes).tolist()
        return [moved(batch, engine.device) for batch in batches], units, tokens

    def _forward(self, batch: Batch, units: int, sums: Sums) -> Tensor:
        """A micro-batch's share of the step's objective."""
        result = self.engine.forward(batch)
        loss, real_BS = result.loss / units, batch.inputs.real_BS
        penalty, measured = self.balancing.penalty(
            result.routings,
            sequences=len(batch.target_BS),
            mask_T=None if real_BS is None else real_BS.flatten(),
        )
        sums.add({"loss": loss, **measured}, result.measured)
        return loss if penalty is None else loss + penalty

    def _evaluate(self) -> dict[str, float]:
        """Loss on held-out batches: an estimate, as `penstock evaluate` reads all of the text. Each batch is read by
        one rank, and the sum is taken in a fixed order. All ranks read equally many, because a pass may gather
        parameters: where none is left, the last one once more."""
        rank, ranks = self.engine.rank, self.engine.ranks
        batches = list(self.objective.heldout())
        shares = [min(number + rank, len(batches) - 1) for number in range(0, len(batches), ranks)]
        own = {number: self._measure(batches[number]) for number in shares}
        read = {number: result for results in self.engine.gather(own) for number, result in results.items()}
        return totals(batches, [read[number] for number in sorted(read)])

    def _measure(self, batch: Batch) -> tuple[float, Measured]:
        """Loss and other figures of a batch, without dropout; the random state of training is unchanged."""
        return read_batch(self.engine.evaluate(moved(batch, self.engine.device)))

    def what_was_learnt(self) -> dict[str, float]:
        """Figures of a model that is partly frozen, on the held-out windows of evaluations; empty for any other. All
        ranks call it, and rank 0 measures."""
        if not isinstance(self.model, PartlyFrozen):
            return {}
        with self.engine.full_state():
            return self._learnt(self.model) if self.writes else {}

    def _learnt(self, model: PartlyFrozen) -> dict[str, float]:
        parameters = parameter_summary(self.composition)
        window_WS = torch.from_numpy(heldout_windows(training_data(self.config, self.dataset))).to(self.engine.device)
        return {
            "trained_share": (parameters.trained or 0) / parameters.total,
            **what_was_learnt(model, window_WS, self.config.train.batch_size),
            **{name: value for name, value in self.metrics.items() if name.startswith("balance/")},
        }

    def _log(self, metrics: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(self.step, metrics)

    def _save(self) -> None:
        """Writes a checkpoint while training waits."""
        if self._saved == self.step:
            return
        self._write(self.run.checkpoints, keep=self.config.train.keep_checkpoints)
        self._saved = self.step

    def _write(self, root: Path, *, keep: int) -> None:
        self._require_finite()
        for observer in self.observers:
            observer.on_checkpoint(self.step)
        write_checkpoint(
            root,
            self.step,
            self.model,
            self._state(),
            self.dataset.folder,
            engine=self.engine,
            plugins=self.plugins,
            keep=keep,
            plan=self.composition.stored_plan,
            added=self.composition.added_state,
            base=self.composition.base_hash,
        )

    def _begin_to_save(self) -> None:
        """Writes a checkpoint beside training. The next step takes the place of the batch that is tried before."""
        self._require_storable()
        self.saver.begin(
            self.step,
            self.model,
            self._contents,
            trained=self._trained(),
            diverged=partial(self._failed, f"the weights became nan at step {self.step + 1}"),
            before=[each for each in map(self._staged_observer, self.observers) if each is not None],
        )
        self._saved = self.step

    def _staged_observer(self, observer: Observer) -> Callable[[], None] | None:
        """What is left to write of an observer's records up to this step."""
        return observer.stage(self.step) if isinstance(observer, StagingObserver) else observer.on_checkpoint(self.step)

    def _contents(self) -> Contents:
        return Contents.of(
            self.model,
            self._state(),
            self.dataset.folder,
            plugins=self.plugins,
            plan=self.composition.stored_plan,
            added=self.composition.added_state,
            base=self.composition.base_hash,
        )

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens_seen,
            "elapsed": self.elapsed,
            "balancing": self.balancing.state(),
            "data": self._data,
            "cut": self.cut.state(),
        }

    def _require_finite(self) -> None:
        """A diverged model is never written. Its weights may still be finite, so the next batch is tried too, and they
        may have a scale that their format cannot hold."""
        finite = all(bool(tensor.isfinite().all()) for tensor in self._trained())
        if self.engine.agree(not finite):
            raise self._diverged("weights", math.nan, fine=finite)
        rank, ranks = self.engine.rank, self.engine.ranks
        loss, _ = self._measure(self.objective.batches(self.step, rank=rank, ranks=ranks, parts=self.parts)[0])
        losses = self.engine.gather(loss)
        if not all(map(math.isfinite, losses)):
            worst = next(each for each in losses if not math.isfinite(each))
            raise self._diverged("loss", worst, fine=math.isfinite(loss))
        self._require_storable()

    def _trained(self) -> list[Tensor]:
        """This rank's part of the parameters that train."""
        trained = trained_parameters(self.composition.module).values()
        # By name, because importing `DTensor` takes a second, which an engine that cuts nothing does not need.
        return [cast(Any, each).to_local() if hasattr(each, "to_local") else each for each in trained]

    def _require_storable(self) -> None:
        if not self._guarded:
            return
        with self.engine.full_state():  # whole on rank 0 alone
            fault = self.composition.fault() if self.writes else None
        if self.engine.agree(fault is not None):
            raise self._failed(f"{fault or 'a weight has a scale that cannot be stored'} at step {self.step}")

    def _status(self, state: str, message: str | None = None) -> None:
        if not self.writes:
            return
        before = self.run.status()
        status = replace(
            before,
            state=state,
            step=self.step,
            steps=self.steps,
            tokens_seen=self.tokens_seen,
            seconds=round(self.elapsed, 3),
            heldout=before.heldout if self.heldout is None and before.state == "finished" else self.heldout,
            message=message,
        )
        self.run.write_status(status)

    def _diverged(self, what: str, value: float, *, fine: bool = True) -> Exception:
        """All ranks raise it alike; ranks on which the value was not `fine` before it was summed are named."""
        where = [rank for rank, each in enumerate(self.engine.gather(fine)) if not each]
        on = f" on {listed(where)}" if where and self.engine.ranks > 1 else ""
        return self._failed(f"the {what} became {value}{on} at step {self.step + 1}")

    def _failed(self, what: str) -> Exception:
        self.saver.settle()
        fix = (
            f"{last_good(self.run.checkpoints)}; lower train.optimizer.lr or the clipping norm, and continue with "
            f"--resume {self.run.path} --allow-config-drift"
        )
        return ProblemError(Problem("diverged", what, str(self.run.path), fix), ExitCode.FAILED)


def _real_tokens(batch: Batch) -> int:
    real_BS = batch.inputs.real_BS
    return batch.target_BS.numel() if real_BS is None else int(real_BS.sum())
