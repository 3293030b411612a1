"""What `penstock evaluate` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.cli import output
from penstock.hooks.contracts import Interval
from penstock.run.records.comparison import ComparedMetric, ComparedTask, Comparison
from penstock.run.records.evaluation import Against, Evaluation, PublishedFigure, TaskFigures

COMPARED = ("A", "B", "B - A", "95 % interval", "p", "difference")
FIGURES_SHOWN = 20
"""Most figures of groups that are printed in full; MMLU has 114."""


def evaluation_text(result: Evaluation) -> str:
    """The figures: those of the tasks that were measured now, of the run, and of tasks that were measured earlier."""
    now = result.tasks if result.measured is None else result.measured
    rows = _rows({name: task for name, task in result.tasks.items() if name in now})
    rows += [(f"held-out text by {name}", f"{value:.4f}", "") for name, value in result.baselines.named.items()]
    if speed := result.performance:
        rows += [
            ("generation, tokens/s", f"{speed.tokens_per_second:.1f}", ""),
            ("first token, ms", f"{speed.prefill_ms:.1f}", ""),
        ]
    samples = "\n\n".join(f"--- {sample.prompt!r}\n{sample.prompt}{sample.text}" for sample in result.samples)
    parts = [output.table((result.checkpoint, "value", "95 % interval"), rows)]
    if earlier := _rows({name: task for name, task in result.tasks.items() if name not in now}):
        parts.append(output.table(("from earlier evaluations of this checkpoint", "value", "95 % interval"), earlier))
    if result.against is not None:
        parts.append(against_text(result.against))
    if result.published is not None:
        parts.append(published_text(result.published))
    return "\n\n".join([*parts, *([samples] if samples else [])])


def published_text(figures: Sequence[PublishedFigure]) -> str:
    """Published figures beside ours."""
    rows = [
        (
            each.metric,
            f"{each.published:g}",
            "" if each.ours is None else figure(each.ours),
            "" if each.difference is None else f"{each.difference:+.4g}",
            "" if each.agrees is None else "yes" if each.agrees else "no",
            each.source,
        )
        for each in figures
    ]
    return output.table(("metric", "published", "ours", "difference", "agrees", "source"), rows)


def against_text(against: Against) -> str:
    """The figures beside the stored ones."""
    rows = [
        (each.metric, figure(each.stored), figure(each.now), f"{each.difference:+.4g}", _around(each.interval, "+"))
        for each in against.changes
    ]
    paired = "paired, question by question" if all(each.paired for each in against.changes) else "unpaired"
    columns = (f"against {against.checkpoint}", "stored", "now", "difference", f"95 % interval, {paired}")
    return output.table(columns, rows)


def comparison_text(result: Comparison) -> str:
    """The figures of both on a text and on tasks, the differences with intervals, and the documents that lose most."""
    a, b = result.baseline, result.compressed
    files = [f"{name}  {each.path}, {each.checkpoint} ({each.file})" for name, each in (("A", a), ("B", b))]
    files.append(f"bytes  A {a.bytes:,}, B {b.bytes:,}: {times_smaller(a.bytes, b.bytes)}")
    parts = ["\n".join(files), *(_text_parts(result) if result.task else [])]
    tasks = {name: metric for task in result.tasks.values() for name, metric in task.metrics.items()}
    if tasks:
        parts.append(output.table(("", *COMPARED), _compared(tasks)))
    parts += [_groups_text(name, task) for name, task in result.tasks.items() if task.groups]
    return "\n\n".join(parts)


def _groups_text(name: str, task: ComparedTask) -> str:
    """The figures of all groups if they are few, else of those that differ."""
    figures = {(group, metric): each for group, own in task.groups.items() for metric, each in own.items()}
    differing = {key: each for key, each in figures.items() if each.adjusted is not None and each.adjusted < 0.05}
    shown = figures if len(figures) <= FIGURES_SHOWN else differing
    rows = [row for (group, metric), each in shown.items() for row in _compared({f"{group}: {metric}": each})]
    groups = len({group for group, _ in differing})
    said = f"{name}: {groups or 'none'} of {len(task.groups)} groups {'differs' if groups == 1 else 'differ'}"
    if shown is not figures:
        said += "; the file of the comparison, and --json, have the figures of all"
    return "\n".join([*([output.table((f"{name}, by group", *COMPARED), rows)] if rows else []), said])


def _text_parts(result: Comparison) -> list[str]:
    pairs = {
        "loss, nats a token": result.loss,
        "bits per byte": result.bits_per_byte,
        "top-1 accuracy": result.top1_accuracy,
    }
    rows = [
        (name, figure(each.baseline), figure(each.compressed), f"{each.difference:+.4g}", _around(each.interval, "+"))
        for name, each in pairs.items()
        if each is not None
    ]
    alone = {"same first choice": result.top1_agreement, "KL(A || B), nats a token": result.kl_divergence}
    rows += [
        (name, "", "", f"{each.value:.4g}", _around(each.interval)) for name, each in alone.items() if each is not None
    ]
    worst = [
        (each.name, figure(each.baseline), figure(each.compressed), f"{each.difference:+.4g}", repr(each.text))
        for each in result.worst
    ]
    return [
        f"{result.task}: {result.samples:,} {result.samples_are}, {result.bytes:,} bytes, {result.tokens:,} tokens",
        output.table(("", "A", "B", "B - A", "95 % interval"), rows),
        output.table(("bits per byte, worst first", "A", "B", "B - A", "begins"), worst),
    ]


def _compared(metrics: Mapping[str, ComparedMetric]) -> list[tuple[str, ...]]:
    """Whether there is a difference is decided by p-values that hold for all rows together."""
    return [
        (
            name,
            figure(each.baseline),
            figure(each.compressed),
            f"{each.difference:+.4g}",
            _around(each.interval, "+"),
            "" if each.adjusted is None else f"{each.adjusted:.3g}",
            "too few samples" if each.adjusted is None else "yes" if each.adjusted < 0.05 else "not shown",
        )
        for name, each in metrics.items()
    ]


def figure(value: float) -> str:
    """Four decimals, where a number has not more digits before its point than anyone reads.

    >>> figure(0.27719), figure(29.9412), figure(1482639238571.1057)
    ('0.2772', '29.9412', '1.48264e+12')
    """
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.6g}"


def times_smaller(before: int, after: int) -> str:
    """
    >>> times_smaller(300, 100), times_smaller(100, 150), times_smaller(100, 100)
    ('3.00 times smaller', '1.50 times larger', 'the same size')
    """
    if before == after:
        return "the same size"
    return f"{before / after:.2f} times smaller" if after < before else f"{after / before:.2f} times larger"


def _around(interval: Interval | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval.low:{sign}.4g} to {interval.high:{sign}.4g}"


def _rows(tasks: Mapping[str, TaskFigures]) -> list[tuple[str, str, str]]:
    return [
        (name, figure(value), _interval_text(task.intervals.get(name)) or task.why_no_interval(name))
        for task in tasks.values()
        for name, value in task.metrics.items()
        if value is not None
    ]


def _interval_text(interval: Interval | None) -> str:
    if interval is None:
        return ""
    counted = "group" if "by cluster" in interval.method else "sample"
    several = "" if interval.samples == 1 else "s"
    return f"{figure(interval.low)} to {figure(interval.high)} ({interval.samples} {counted}{several})"
