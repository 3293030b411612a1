"""What a task's answers show: figures of each group with intervals, reliability, and the questions answered worst."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from penstock.hooks.contracts import Interval
from penstock.pages.card import Card
from penstock.pages.drawing import CARD, HALF, INK, MUTED, SERIES, Chart, Key, Size, draw, frame
from penstock.pages.formats import count, percent, rounded
from penstock.run.records.evaluation import Against, Evaluation, Provenance, Question, Reliability, TaskFigures

GROUPS_DRAWN = 60
"""Most groups in a picture; a table has all of them."""
HASH_SHOWN = 12


@dataclass(frozen=True, slots=True)
class TaskView:
    """Everything that the template shows about the answers of one task."""

    name: str
    cards: list[Card]
    groups: list[tuple[str, ...]]
    group_columns: tuple[str, ...]
    worst: list[Question]
    provenance: list[tuple[str, str]]


def task_views(evaluation: Evaluation | None, anchor: str) -> list[TaskView]:
    """The tasks that have more to show than their figures."""
    tasks = evaluation.tasks if evaluation else {}
    views = [_view(name, task, f"{anchor}-{number}") for number, (name, task) in enumerate(tasks.items(), 1)]
    return [view for view in views if view.cards or view.groups or view.worst or view.provenance]


def _view(name: str, task: TaskFigures, anchor: str) -> TaskView:
    metrics = [each for each in task.metrics if any(each in own for own in (task.groups or {}).values())]
    return TaskView(
        name=name,
        cards=[card for card in (_groups_card(task, metrics, anchor), _reliability_card(task, anchor)) if card],
        groups=list(_group_rows(task, metrics)),
        group_columns=("group", *metrics),
        worst=task.worst or [],
        provenance=[] if task.provenance is None else list(_provenance(task.provenance)),
    )


def _group_rows(task: TaskFigures, metrics: list[str]) -> Iterator[tuple[str, ...]]:
    intervals = task.group_intervals or {}
    for group, own in (task.groups or {}).items():
        yield (group, *(_with_interval(own.get(name), intervals.get(group, {}).get(name)) for name in metrics))


def _with_interval(value: float | None, interval: Interval | None) -> str:
    if interval is None:
        return rounded([value], None)[0]
    shown, low, high = rounded([value, interval.low, interval.high], interval)
    return f"{shown} ({low} to {high})"


def _groups_card(task: TaskFigures, metrics: list[str], anchor: str) -> Card | None:
    """The task's first metric, group by group, best at the top."""
    groups = task.groups or {}
    found = {group: value for group, own in groups.items() if metrics and (value := own.get(metrics[0])) is not None}
    if not 2 <= len(found) <= GROUPS_DRAWN:
        return None
    intervals = {group: (task.group_intervals or {}).get(group, {}).get(metrics[0]) for group in found}
    order = sorted(found, key=lambda group: found[group])
    text = f"Each line is the 95 % interval of a group alone; {len(found)} groups."
    overall = task.metrics.get(metrics[0])
    chart = groups_chart(f"{anchor}-groups", [(each, found[each], intervals[each]) for each in order], overall)
    return Card("By group", metrics[0], chart, text)


def groups_chart(name: str, groups: list[tuple[str, float, Interval | None]], overall: float | None) -> Chart:
    """A dot a group with its interval, and a line for all of them."""

    def plot(axes: Axes, size: Size) -> None:
        for row, (group, value, interval) in enumerate(groups):
            if interval is not None:
                axes.plot([interval.low, interval.high], [row, row], color=SERIES[0], linewidth=2, alpha=0.45)
            axes.plot([value], [row], color=SERIES[0], marker="o", markersize=6, markeredgecolor=CARD, zorder=5)
            axes.annotate(
                group,
                (0, row),
                (-6, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=9.5,
                color=INK,
                annotation_clip=False,
            )
        if overall is not None:
            axes.axvline(overall, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        frame(axes, size, "")
        axes.grid(False)
        axes.set_yticks([])
        axes.set_ylim(-0.8, len(groups) - 0.2)
        box = axes.get_position()
        left = min(0.5, (16 + 6 * max(len(group) for group, _, _ in groups)) / size[0])
        axes.set_position((left, box.y0, box.x1 - left, box.height))

    height = 70 + 19 * len(groups)
    return draw(plot, name, (), (HALF[0], height), (330, height))


def _reliability_card(task: TaskFigures, anchor: str) -> Card | None:
    found = task.reliability
    if found is None or not found.bins:
        return None
    answers = sum(each.answers for each in found.bins)
    side = "too sure" if sum(e.answers * (e.confidence - e.right) for e in found.bins) > 0 else "not sure enough"
    text = (
        f"Of {count(answers)} answers, by the probability that the model gives its choice. On the dashed line, "
        f"confidence is the share that is right. The expected calibration error is "
        f"{percent(found.expected_calibration_error)}; on the whole the model is {side}."
    )
    return Card("Reliability", "share right, by confidence", reliability_chart(f"{anchor}-reliability", found), text)


def reliability_chart(name: str, found: Reliability) -> Chart:
    """The share right of each bin over its mean confidence; the size of a dot grows with the bin's answers."""
    most = max(each.answers for each in found.bins)

    def plot(axes: Axes, size: Size) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.plot(
            [each.confidence for each in found.bins], [each.right for each in found.bins], color=SERIES[0], alpha=0.5
        )
        for each in found.bins:
            axes.bar(
                (each.low + each.high) / 2, each.right, width=0.92 * (each.high - each.low), color=SERIES[0], alpha=0.14
            )
            area = 30 + 190 * each.answers / most
            axes.scatter([each.confidence], [each.right], s=area, color=SERIES[0], edgecolors=CARD, zorder=5)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        frame(axes, size, "confidence")
        axes.set_xticks(np.linspace(0, 1, 6))

    keys = (Key("answers of a bin", 1, "dot"),)
    return draw(plot, name, keys, HALF)


def _provenance(found: Provenance) -> Iterator[tuple[str, str]]:
    for file, digest in found.weights.items():
        yield f"weights: {file}", digest[:HASH_SHOWN]
    yield "data", (found.data or "unknown")[:HASH_SHOWN]
    yield "prompts", found.prompts[:HASH_SHOWN]
    yield "tokenizer", found.tokenizer[:HASH_SHOWN]
    if found.chat_template:
        yield "chat template", found.chat_template[:HASH_SHOWN]
    yield "computed in", f"{found.dtype}, {found.sequence_length} tokens at a time, on {found.device or 'cpu'}"
    batches = "each text alone, to the bit" if found.batch_invariant else f"batches of {found.batch_size}"
    yield "read in", batches
    if found.depends_on_batch:
        yield "routers that look at other tokens", "; ".join(found.depends_on_batch)
    yield "seed", str(found.seed)
    yield "versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())


def against_rows(found: Against) -> list[tuple[str, ...]]:
    """A line for each figure beside the stored one."""
    return [
        (
            each.metric,
            *rounded([each.stored, each.now], each.interval),
            _with_interval(each.difference, each.interval),
            "paired" if each.paired else "unpaired",
        )
        for each in found.changes
    ]
