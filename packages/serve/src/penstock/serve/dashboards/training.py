"""What is watched of runs that train: their dashboard and their alerts. The metrics are those of the observer
`prometheus` (penstock-trackers)."""

from __future__ import annotations

from penstock.serve.dashboards.alerts import Alert
from penstock.serve.dashboards.grafana import RATE, Chart, Choice, Page, Query, Row

JOB = "penstock-training"
"""Prometheus's name for the runs. Metrics that every process has are told apart by it."""
_OF = 'run=~"$run"'
_RUN = "{{config}} {{run}}"


def _rate(metric: str) -> str:
    return f"rate({metric}{{{_OF}}}[{RATE}])"


_NOW = Row(
    "Now",
    [
        Chart("Step", "Optimizer steps so far", [Query(f"penstock_step{{{_OF}}}", _RUN)], kind="stat"),
        Chart("Tokens", "Tokens so far, without padding", [Query(f"penstock_tokens{{{_OF}}}", _RUN)], kind="stat"),
        Chart("Loss", "Training loss of the last step", [Query(f"penstock_loss{{{_OF}}}", _RUN)], kind="stat"),
        Chart(
            "Speed",
            "Tokens a second, over the whole time",
            [Query(_rate("penstock_trained_tokens_total"), _RUN)],
            kind="stat",
        ),
        Chart(
            "Last step",
            "Seconds since it ended",
            [Query(f"time() - penstock_last_step_timestamp_seconds{{{_OF}}}", _RUN)],
            unit="s",
            kind="stat",
        ),
        Chart(
            "Checkpoint",
            "Seconds since the newest one was complete",
            [Query(f"time() - penstock_checkpoint_timestamp_seconds{{{_OF}}}", _RUN)],
            unit="s",
            kind="stat",
        ),
    ],
)
_LEARNING = Row(
    "Learning",
    [
        Chart(
            "Loss",
            "Of the last step, and of the last evaluation",
            [
                Query(f"penstock_loss{{{_OF}}}", f"{_RUN} training"),
                Query(f'penstock_heldout{{metric="loss",{_OF}}}', f"{_RUN} held out"),
            ],
        ),
        Chart("Gradient", "Norm before clipping", [Query(f"penstock_gradient_norm{{{_OF}}}", _RUN)]),
        Chart("Learning rate", "Of the first parameter group", [Query(f"penstock_learning_rate{{{_OF}}}", _RUN)]),
    ],
)
_SPEED = Row(
    "Speed",
    [
        Chart(
            "Tokens a second",
            "Over the whole time, and of the last step alone",
            [
                Query(_rate("penstock_trained_tokens_total"), f"{_RUN} over all"),
                Query(f"penstock_tokens_per_second{{{_OF}}}", f"{_RUN} last step"),
            ],
        ),
        Chart(
            "Seconds of a step",
            "By part",
            [
                Query(
                    f"{_rate('penstock_step_seconds_total')}"
                    f" / ignoring (part) group_left () {_rate('penstock_steps_total')}",
                    f"{_RUN} {{{{part}}}}",
                )
            ],
            unit="s",
        ),
        Chart(
            "Processor",
            "Cores that rank 0 uses",
            [Query(f'rate(process_cpu_seconds_total{{job="{JOB}",{_OF}}}[{RATE}])', _RUN)],
        ),
        Chart(
            "Memory",
            "Resident memory of rank 0",
            [Query(f'process_resident_memory_bytes{{job="{JOB}",{_OF}}}', _RUN)],
            unit="bytes",
        ),
    ],
)
_CHECKPOINTS = Row(
    "Checkpoints",
    [
        Chart(
            "Steps",
            "Of the run, and of its newest complete checkpoint",
            [
                Query(f"penstock_step{{{_OF}}}", f"{_RUN} trained"),
                Query(f"penstock_checkpoint_step{{{_OF}}}", f"{_RUN} checkpoint"),
            ],
        ),
    ],
)

PAGE = Page(
    "training",
    "Penstock: training",
    "Runs in progress: learning, speed, checkpoints",
    [Choice("run", "penstock_step")],
    [_NOW, _LEARNING, _SPEED, _CHECKPOINTS],
)

_NAMED = "{{ $labels.config }} {{ $labels.run }} at {{ $labels.instance }}"
ALERTS = [
    Alert(
        "RunDied",
        f'up{{job="{JOB}"}} == 0',
        "1m",
        "critical",
        f"{_NAMED} does not answer",
        "A run that ended takes its file away, so this one was killed: `penstock train --resume`.",
    ),
    Alert(
        "StepsStalled",
        "time() - penstock_last_step_timestamp_seconds > 600",
        "0m",
        "critical",
        f"{_NAMED} has made no step for ten minutes",
        "A rank or a disk hangs: look at the run's log.",
    ),
    Alert(
        "CheckpointOld",
        "time() - penstock_checkpoint_timestamp_seconds > 7200",
        "0m",
        "warning",
        f"the newest checkpoint of {_NAMED} is older than two hours",
        "Free space on its disk, or lower `train.checkpoint_every`.",
    ),
    Alert(
        "LossRises",
        "penstock_loss > 1.5 * min_over_time(penstock_loss[1h])",
        "5m",
        "warning",
        f"the loss of {_NAMED} is half as high again as it was within the hour",
        "If it stays, resume from an earlier checkpoint with a lower learning rate.",
    ),
]
