"""What Prometheus scrapes of a run, under names of its conventions: base units in the name, `_total` for counters.

Seconds of a step are a ratio of two rates: `rate(penstock_step_seconds_total{part="forward"}[5m])` over that of
`penstock_steps_total`. Steps that a resumed run repeats make a counter fall, which Prometheus reads as a restart.
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
    "loss": ("penstock_loss", "Training loss of the last step, in the unit of the objective (nats a token)"),
    "gradient_norm": ("penstock_gradient_norm", "Norm of the gradient before clipping"),
    "learning_rate": ("penstock_learning_rate", "Learning rate of the first parameter group"),
    "tokens_per_second": ("penstock_tokens_per_second", "Tokens of the last step over its seconds"),
}
ELSEWHERE = ("tokens", "elapsed")


class RunMetrics:
    """The metrics of one run in a registry of its own, so that two runs of one process do not meet."""

    def __init__(self, run_directory: Path) -> None:
        self.registry = registry = CollectorRegistry()
        Info("penstock_run", "The run that this process trains", registry=registry).info(
            {"config": run_directory.parent.name, "run": run_directory.name}
        )
        self._steps = Counter("penstock_steps", "Optimizer steps of the run", registry=registry)
        self._tokens = Counter("penstock_tokens", "Tokens trained on, without padding", registry=registry)
        self._seconds = Counter("penstock_step_seconds", "Seconds of steps by part", ["part"], registry=registry)
        self._ended = Gauge("penstock_last_step_timestamp_seconds", "When the last step ended", registry=registry)
        self._gauges = {key: Gauge(*named, registry=registry) for key, named in OF_A_STEP.items()}
        self._logged = Gauge("penstock_logged", "Everything else that a step logs", ["metric"], registry=registry)
        self._heldout = Gauge("penstock_heldout", "Figures of the last evaluation", ["metric"], registry=registry)
        self._heldout_step = Gauge("penstock_heldout_step", "Step of the last evaluation", registry=registry)
        of_layer = {"labelnames": ["layer"], "registry": registry}
        self._violation = Gauge(
            "penstock_expert_load_max_violation", "Load of the busiest expert over the mean load, less 1", **of_layer
        )
        self._share = Gauge(
            "penstock_expert_load_max_ratio", "Share of the assignments that the busiest expert has", **of_layer
        )
        self._dead = Gauge("penstock_dead_experts", "Experts without a token in the last step", **of_layer)
        self._before = (0, 0)  # steps and tokens that the counters have
        registry.register(Checkpoints(run_directory / "checkpoints"))
        ProcessCollector(registry=registry)

    def step(self, record: StepRecord) -> None:
        self._steps.inc(record.step - self._before[0])
        self._tokens.inc(record.tokens_seen - self._before[1])
        self._before = (record.step, record.tokens_seen)
        self._ended.set_to_current_time()
        for name, value in record.metrics.items():
            if name.startswith(PART):
                self._seconds.labels(name.removeprefix(PART)).inc(value)
            elif name in self._gauges:
                self._gauges[name].set(value)
            elif name not in ELSEWHERE:
                self._logged.labels(name).set(value)
        self._load(record)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._heldout_step.set(step)
        for name, value in figures.items():
            self._heldout.labels(name).set(value)

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
