"""What Prometheus scrapes of a run, under names of its conventions: base units in the name, `_total` for counters.

Seconds of a step are a ratio of two rates: `rate(penstock_step_seconds_total{part="forward"}[5m])` over that of
`penstock_steps_total`. Counters begin at 0 with the process: Prometheus reads a counter that falls as a restart from 0,
so one of the whole run would show all its steps at once where a resumed run repeats some. Gauges say where the run is.
A gauge is exposed from its first value on, because a loss of 0 before the first step would set off alerts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from penstock.hooks.contracts import StepRecord
from penstock.traces.load import dead_experts, max_violation

PART = "seconds/"
# The gauges that have a name of their own; what else a step logs is a `penstock_logged`.
OF_A_STEP = {
    "tokens": ("penstock_tokens", "Tokens of the run so far, without padding"),
    "loss": ("penstock_loss", "Training loss of the last step, in the unit of the objective (nats a token)"),
    "gradient_norm": ("penstock_gradient_norm", "Norm of the gradient before clipping"),
    "learning_rate": ("penstock_learning_rate", "Learning rate of the first parameter group"),
    "tokens_per_second": ("penstock_tokens_per_second", "Tokens of the last step over its seconds"),
}
ELSEWHERE = ("elapsed",)


class RunMetrics:
    """The metrics of one run in a registry of its own, so that two runs of one process do not meet."""

    def __init__(self, run_directory: Path) -> None:
        self.registry = registry = CollectorRegistry()
        Info("penstock_run", "The run that this process trains", registry=registry).info(
            {"config": run_directory.parent.name, "run": run_directory.name}
        )
        self._steps = Counter("penstock_steps", "Optimizer steps of this process", registry=registry)
        self._trained = Counter("penstock_trained_tokens", "Tokens of these steps, without padding", registry=registry)
        self._seconds = Counter("penstock_step_seconds", "Seconds of steps by part", ["part"], registry=registry)
        self._ended = Gauge(
            "penstock_last_step_timestamp_seconds",
            "When the last step ended; before the first one, when this process began",
            registry=registry,
        )
        self._ended.set_to_current_time()
        self._gauges: dict[str, Gauge] = {}  # those that have a value
        self._logged = Gauge("penstock_logged", "Everything else that a step logs", ["metric"], registry=registry)
        self._heldout = Gauge("penstock_heldout", "Figures of the last evaluation", ["metric"], registry=registry)
        of_layer = {"labelnames": ["layer"], "registry": registry}
        self._violation = Gauge(
            "penstock_expert_load_max_violation", "Load of the busiest expert over the mean load, less 1", **of_layer
        )
        self._share = Gauge(
            "penstock_expert_load_max_ratio", "Share of the assignments that the busiest expert has", **of_layer
        )
        self._dead = Gauge("penstock_dead_experts", "Experts without a token in the last step", **of_layer)
        self._tokens: int | None = 0  # of the run, after the step before; None where it is not known
        registry.register(Checkpoints(run_directory / "checkpoints"))
        ProcessCollector(registry=registry)

    def resume(self, step: int) -> None:
        """The run goes on after this step."""
        self._set("penstock_step", "Optimizer steps of the run so far", step)
        self._tokens = None if step else 0

    def step(self, record: StepRecord) -> None:
        self._steps.inc()
        if self._tokens is not None:
            self._trained.inc(record.tokens_seen - self._tokens)
        self._tokens = record.tokens_seen
        self._set("penstock_step", "Optimizer steps of the run so far", record.step)
        self._ended.set_to_current_time()
        for name, value in record.metrics.items():
            if name.startswith(PART):
                self._seconds.labels(name.removeprefix(PART)).inc(value)
            elif name in OF_A_STEP:
                self._set(*OF_A_STEP[name], value)
            elif name not in ELSEWHERE:
                self._logged.labels(name).set(value)
        self._load(record)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._set("penstock_heldout_step", "Step of the last evaluation", step)
        for name, value in figures.items():
            self._heldout.labels(name).set(value)

    def _set(self, name: str, what: str, value: float) -> None:
        if name in self._gauges:
            self._gauges[name].set(value)
            return
        self._gauges[name] = gauge = Gauge(name, what, registry=None)
        gauge.set(value)
        self.registry.register(gauge)

    def _load(self, record: StepRecord) -> None:
        if not record.layers:
            return
        total_L = record.counts_LE.sum(-1)
        share_L = record.counts_LE.max(-1) / total_L.clip(min=1)
        figures = zip(
            record.layers, max_violation(record.counts_LE), share_L, dead_experts(record.counts_LE), strict=True
        )
        for layer, violation, share, dead in figures:
            self._violation.labels(str(layer)).set(violation)
            self._share.labels(str(layer)).set(share)
            self._dead.labels(str(layer)).set(dead)


class Checkpoints(Collector):
    """The newest checkpoint, read when it is asked for: a checkpoint is there once `latest` names it, which may be long
    after the step that it is of."""

    def __init__(self, folder: Path) -> None:
        self._latest = folder / "latest"

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            step = int(self._latest.read_text(encoding="utf-8").strip().rpartition("-")[2])
            written = self._latest.stat().st_mtime
        except (OSError, ValueError):  # none yet
            return
        yield GaugeMetricFamily("penstock_checkpoint_step", "Step of the newest checkpoint", value=step)
        name = "penstock_checkpoint_timestamp_seconds"
        yield GaugeMetricFamily(name, "When the newest checkpoint was complete", value=written)
