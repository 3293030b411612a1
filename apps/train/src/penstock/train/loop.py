"""The training loop.

One optimizer step is: count, where a loss must know first; its micro-batches forward and backward; then clip, step,
balance. Batch number s is a pure
function of the seed and s, so a run continues from any checkpoint with the bits that it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from penstock.cli import output
from penstock.cli.plugin_lock import plugin_lock
from penstock.cli.run_config import RunConfig
from penstock.cli.run_directory import RunDirectory
from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.order import TokenOrder
from penstock.eval_suite.metrics import bits_per_byte
from penstock.hooks.contracts import Observer, PartlyFrozen, StepRecord, Tracker
from penstock.hooks.problems import Problem, ProblemError
from penstock.train.balancing import Balancing
from penstock.train.checkpoint import Checkpoint, last_good, newest_checkpoint, tidy, write_checkpoint
from penstock.train.compose import Composition, parameter_summary, routing_header, trained_parameters
from penstock.train.engines.local import LocalEngine
from penstock.train.learnt import what_was_learnt
from penstock.train.progress import Progress
from penstock.train.resume import plugin_drift_refused
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


class Trainer:
    """Trains one composition in one run directory."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        dataset: TokenDataset,
        composition: Composition,
        engine: LocalEngine,
        device: torch.device,
    ) -> None:
        self.config, self.run, self.dataset, self.engine, self.device = config, run, dataset, engine, device
        self.composition, self.model = composition, composition.model
        self.order = TokenOrder(
            dataset.split("train"),
            sequence_length=config.data.sequence_length,
            batch_size=config.train.batch_size,
            seed=config.seed,
        )
        self.tokens_per_step = config.train.batch_size * config.data.sequence_length
        self.steps = math.ceil(config.train.tokens / self.tokens_per_step)
        self.balancing = Balancing(
            composition.model,
            composition.losses,
            composition.balancers,
            parts=config.train.micro_batches,
            ranks=engine.ranks,
            total=engine.total,
        )
        self.step = 0
        self.elapsed = 0.0
        self.metrics: dict[str, float] = {}
        self.trackers: list[Tracker] = [choice.build(run_directory=run.path) for choice in config.train.trackers]
        self.observers: list[Observer] = [
            choice.build(run_directory=run.path, header=self._trace_header()) for choice in config.train.observers
        ]
        self.plugins = plugin_lock(config)  # now: what the files hold later is not what was imported
        self.plugin_drift: list[str] = []
        self._data = {name: record.sha256 for name, record in dataset.manifest.files.items()}
        self._byte_lengths = dataset.tokenizer().byte_lengths()
        self._last_checkpoint: Checkpoint | None = None

    @property
    def tokens_seen(self) -> int:
        return self.step * self.tokens_per_step

    def _trace_header(self) -> dict[str, Any]:
        """What a routing trace of this run says about its model and data."""
        manifest = self.dataset.manifest
        return {
            **routing_header(self.config.name, self.composition.model),
            "data": self.dataset.hash,
            "tokenizer": manifest.tokenizer_sha256,
        }

    def resume(self, *, allow_plugin_drift: bool = False) -> int:
        """Continues from the newest whole checkpoint; returns its step, 0 where there is none. Raises `ProblemError`
        where all are damaged, it does not fit, or other code of components wrote it, which may be allowed; nothing
        has been changed then. `plugin_drift` says what was allowed."""
        checkpoint = newest_checkpoint(self.run.checkpoints, output.warn)
        if checkpoint is not None:
            self.plugin_drift = checkpoint.plugin_changes(self.plugins)
            if self.plugin_drift and not allow_plugin_drift:
                raise plugin_drift_refused(self.plugin_drift, checkpoint.path)
            self._load(checkpoint)
        tidy(self.run.checkpoints, checkpoint)
        for tracker in self.trackers:
            tracker.resume(self.step)
        for observer in self.observers:
            observer.on_resume(self.step)
        return self.step

    def _load(self, checkpoint: Checkpoint) -> None:
        checkpoint.require_tokenizer(self.dataset.manifest.tokenizer_sha256)
        checkpoint.require_base(self.model)
        state = checkpoint.trainer_state()
        if state["data"] != self._data:
            names = [name for name in self._data if state["data"].get(name) != self._data[name]]
            what = f"the data is not what the run was trained on ({', '.join(names)})"
            fix = "bring that data back, or start a new run"
            raise output.failed("other-data", what, str(self.dataset.folder), fix)
        try:
            checkpoint.load_model(self.model)
            self.engine.load_state(state["engine"])
            self.balancing.load_state(state.get("balancing", {}), self.device)
        except (ProblemError, KeyError, RuntimeError, ValueError) as error:
            what = f"the checkpoint does not fit the model and optimizer of this config ({error})"
            fix = "undo the change of the config, or start a new run"
            raise ProblemError(Problem("cannot-continue", what, str(checkpoint.path), fix)) from error
        self.step, self.elapsed = state["step"], state["elapsed"]
        self._last_checkpoint = checkpoint

    def train(self) -> None:
        """Runs to the end; raises `Interrupted` after SIGINT or SIGTERM, with a checkpoint written."""
        try:
            with Progress(self.steps, self.step) as progress, stop_requests() as stop_requested:
                while self.step < self.steps:
                    self.metrics = self._train_step()
                    progress.advance(self.step, self.metrics, self.tokens_per_step)
                    self._after_step(last=self.step == self.steps, stop=stop_requested())
                    progress.every_second(lambda: self._status("running"))
            self._close()
            self._status("finished")
        except BaseException as error:
            self.balancing.abandon()
            stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
            with suppress(OSError):  # a full disk must not hide what happened
                self._status("interrupted") if stopped else self._status("failed", message=str(error))
                self._close()
            raise

    def _after_step(self, *, last: bool, stop: bool) -> None:
        train = self.config.train
        if last or (train.evaluate_every and self.step % train.evaluate_every == 0):
            self._log(self._evaluate())
        if last or stop or self.step % train.checkpoint_every == 0:
            self._save()
        if stop and not last:
            raise Interrupted

    def _close(self) -> None:
        for observer in self.observers:
            observer.on_end()
        for tracker in self.trackers:
            tracker.close()

    def _train_step(self) -> dict[str, float]:
        watch = Stopwatch()
        parts = self.config.train.micro_batches
        sums: dict[str, torch.Tensor] = {}
        begun = time.perf_counter()
        with watch("data"):
            windows = [self._window(part, parts) for part in range(parts)]
        with watch("balance"):
            self.balancing.begin(((window_BS[:, :-1], None) for window_BS in windows), tokens=self.tokens_per_step)
        for window_BS in windows:
            with watch("forward"):
                loss, measured = self._forward(window_BS)
            with watch("backward"):
                self.engine.backward(loss)
            for name, value in measured.items():
                sums[name] = sums.get(name, 0) + value
        losses = {name: value.item() for name, value in sums.items()}
        if not math.isfinite(losses["loss"]):
            raise self._diverged("loss", losses["loss"])
        with watch("optimizer"):
            norm = self.engine.clip()
            if not math.isfinite(norm):
                raise self._diverged("gradient", norm)
            stepped = {"gradient_norm": norm, **self.engine.step(self.step / self.steps)}
        self.step += 1
        with watch("balance"):
            load, balance = self.balancing.finish(tokens_seen=self.tokens_seen)
        seconds = time.perf_counter() - begun
        self.elapsed += seconds
        metrics = {
            "tokens": self.tokens_seen,
            **losses,
            **stepped,
            "tokens_per_second": self.tokens_per_step / seconds,
            "elapsed": self.elapsed,
            **{f"seconds/{part}": value for part, value in watch.seconds.items()},
        }
        metrics.update(balance)
        self._log(metrics)
        record = StepRecord(self.step, self.tokens_seen, metrics, load.counts_LE.cpu().numpy(), load.layers)
        for observer in self.observers:
            observer.on_step(record)
        return metrics

    def _window(self, part: int, parts: int) -> torch.Tensor:
        rows = self.order.batch(self.step, rank=self.engine.rank, ranks=self.engine.ranks, part=part, parts=parts)
        return torch.from_numpy(rows).to(self.device)

    def _forward(self, window_BS: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A micro-batch's share of the step's objective, and its parts by name."""
        result = self.model.next_token_loss(window_BS[:, :-1], window_BS[:, 1:])
        loss = result.loss / self.tokens_per_step
        penalty, measured = self.balancing.penalty(result.routings, sequences=len(window_BS))
        return loss if penalty is None else loss + penalty, {"loss": loss.detach(), **measured}

    def _evaluate(self) -> dict[str, float]:
        """Loss on windows spread evenly over the held-out text: an estimate; `penstock evaluate` reads all of it."""
        window_WS = self._heldout_windows()
        nats = sum(self._nats(part_BS) for part_BS in torch.from_numpy(window_WS).split(self.config.train.batch_size))
        target_WS = window_WS[:, 1:]
        scored_bytes = int(self._byte_lengths[target_WS].sum())
        return {"heldout/loss": nats / target_WS.size, "heldout/bits_per_byte": bits_per_byte([nats], scored_bytes)}

    def _heldout_windows(self) -> Any:
        """int64 [W, S + 1]."""
        split, length = self.dataset.split("heldout"), self.config.data.sequence_length
        windows = (len(split) - 1) // length
        wanted = min(windows, max(1, self.config.train.evaluate_tokens // length))
        starts = [number * windows // wanted * length for number in range(wanted)]
        return np.stack([split.slice(start, start + length + 1) for start in starts])

    def what_was_learnt(self) -> dict[str, float]:
        """Figures of a model that is partly frozen, on the held-out windows of evaluations; empty for any other."""
        if not isinstance(self.model, PartlyFrozen):
            return {}
        parameters = parameter_summary(self.composition)
        window_WS = torch.from_numpy(self._heldout_windows()).to(self.device)
        return {
            "trained_share": parameters["trained"] / parameters["total"],
            **what_was_learnt(self.model, window_WS, self.config.train.batch_size),
            **{name: value for name, value in self.metrics.items() if name.startswith("balance/")},
        }

    @torch.inference_mode()
    def _nats(self, window_BS: torch.Tensor) -> float:
        """Loss of some windows, without dropout; the random numbers of training do not notice that it was measured."""
        window_BS = window_BS.to(self.device)
        module = self.composition.module
        module.eval()
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                return self.model.next_token_loss(window_BS[:, :-1], window_BS[:, 1:]).loss.item()
        finally:
            module.train()

    def _log(self, metrics: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(self.step, metrics)

    def _save(self) -> None:
        if self._last_checkpoint is not None and self._last_checkpoint.step == self.step:
            return
        trained = trained_parameters(self.composition.module).values()
        if not all(bool(parameter.isfinite().all()) for parameter in trained):
            raise self._diverged("weights", math.nan)
        next_BS = self.order.batch(self.step, parts=self.config.train.micro_batches)
        if not math.isfinite(loss := self._nats(torch.from_numpy(next_BS))):  # finite weights may be ruined too
            raise self._diverged("loss", loss)
        for observer in self.observers:
            observer.on_checkpoint(self.step)
        state = {
            "step": self.step,
            "elapsed": self.elapsed,
            "engine": self.engine.state(),
            "balancing": self.balancing.state(),
            "data": self._data,
        }
        self._last_checkpoint = write_checkpoint(
            self.run.checkpoints,
            self.step,
            self.model,
            state,
            self.dataset.folder,
            plugins=self.plugins,
            keep=self.config.train.keep_checkpoints,
        )

    def _status(self, state: str, **more: Any) -> None:
        self.run.write_status(
            **{
                **self.run.status(),
                "state": state,
                "step": self.step,
                "steps": self.steps,
                "tokens_seen": self.tokens_seen,
                "seconds": round(self.elapsed, 3),
                **more,
            }
        )

    def _diverged(self, what: str, value: float) -> Exception:
        return output.failed(
            "diverged",
            f"the {what} became {value} at step {self.step + 1}",
            str(self.run.path),
            f"{last_good(self.run.checkpoints)}; lower train.optimizer.lr or clip harder, and continue with "
            f"--resume {self.run.path} --allow-config-drift",
        )
