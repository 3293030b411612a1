"""Finds the fastest layout of a step that fits in memory; tries all layouts except those that cannot win."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from penstock.hooks.problems import Problem, ProblemError
from penstock.netsim.layout import RECOMPUTE, Job, Layout, stage_kinds, stages_of
from penstock.netsim.memory import Memory, gpu_memory
from penstock.netsim.model_shape import ModelShape
from penstock.netsim.pipeline import Schedule
from penstock.netsim.step_cost import Cost, Machine, busiest_stage, cost_of, step_parts

MOST_GPUS = 8192


@dataclass(frozen=True, slots=True)
class Space:
    """The options that are searched. Tensor parallelism never leaves a node, and experts are never split, because both
    would only add traffic."""

    schedules: tuple[tuple[Schedule, int], ...] = (
        ("1f1b", 1),
        ("interleaved", 2),
        ("interleaved", 4),
        ("zb-h1", 1),
        ("zb-h2", 1),
    )
    micro_batches: tuple[int, ...] = (1, 2, 4, 8)
    zero: tuple[int, ...] = (1, 2, 3)
    offload: tuple[bool, ...] = (False, True)


@dataclass(frozen=True, slots=True)
class Found:
    """The fastest layouts, best first, one for each way to divide the model; and the number of layouts examined."""

    costs: tuple[Cost, ...]
    layouts: int


def search(shape: ModelShape, gpus: int, job: Job, machine: Machine, *, space: Space = Space(), keep: int = 5) -> Found:
    """The fastest layouts of `gpus` GPUs that fit in memory.

    Raises `ProblemError` if no layout uses that many GPUs, or none fits; the problem then names the smallest memory.
    """
    if not 1 <= gpus <= MOST_GPUS:
        fix = f"use 1 to {MOST_GPUS}"
        raise ProblemError(Problem("bad-gpus", f"cannot search layouts of {gpus} GPUs", "--gpus", fix))
    best: dict[tuple[int, int, int], tuple[float, Layout]] = {}
    smallest: Memory | None = None
    looked_at, limit = 0, machine.accelerator.memory.value
    reserve = machine.accelerator.reserve.value
    for degrees in _degrees(shape, gpus, job, machine, space):
        kinds = stage_kinds(stages_of(shape, degrees.pipeline, degrees.chunks))
        busiest = busiest_stage(shape, degrees, job, machine, kinds)
        fastest = busiest.work.forward + busiest.work.backward + busiest.work.products
        for layout in _variants(degrees, space):
            looked_at += 1
            division = (layout.tensor, layout.pipeline, layout.expert)
            to_beat = best[division][0] if division in best else _slowest(best, keep)
            # No variant is faster than its work without bubble, and full recomputation repeats the forward work.
            again = busiest.work.forward if layout.recompute == "full" else 0.0
            if layout.micro_batches(job) * (fastest + again) >= to_beat:
                continue
            seconds = step_parts(shape, layout, job, machine, busiest).total
            if seconds >= to_beat:
                continue
            memory = gpu_memory(shape, layout, job, kinds, reserve=reserve)
            if memory.total > limit:
                smallest = min(smallest or memory, memory, key=lambda each: each.total)
                continue
            best[division] = (seconds, layout)
            if len(best) > keep:
                del best[max(best, key=lambda division: best[division][0])]
    if not best:
        raise ProblemError(_nothing_fits(shape, gpus, machine, smallest))
    ranked = sorted(best.values(), key=lambda pair: pair[0])
    return Found(tuple(cost_of(shape, layout, job, machine) for _, layout in ranked), looked_at)


def _slowest(best: dict[tuple[int, int, int], tuple[float, Layout]], keep: int) -> float:
    """The time that a new division has to beat."""
    return max(seconds for seconds, _ in best.values()) if len(best) == keep else float("inf")


def _nothing_fits(shape: ModelShape, gpus: int, machine: Machine, smallest: Memory | None) -> Problem:
    if smallest is None:
        what = f"{shape.name} cannot be laid out over {gpus} GPUs"
        return Problem("no-layout", what, "--gpus", "use a number with more divisors, or another batch")
    need, have = smallest.total / 2**30, machine.accelerator.memory.value / 2**30
    what = f"no layout of {shape.name} fits: on {gpus} GPUs the smallest needs {need:.0f} GiB of {have:.0f} per GPU"
    return Problem("no-memory", what, "--gpus", "use more GPUs, or GPUs with more memory")


def _degrees(shape: ModelShape, gpus: int, job: Job, machine: Machine, space: Space) -> Iterator[Layout]:
    """Every way to divide the model and the batch, each with every schedule."""
    node = machine.network.gpus_per_node
    for tensor in divisors(gpus):
        if tensor > node:
            break
        for pipeline in divisors(gpus // tensor):
            data = gpus // tensor // pipeline
            for expert in divisors(shape.experts):
                for micro_batch in space.micro_batches:
                    for schedule, chunks in space.schedules:
                        # One stage has no bubble to shorten.
                        if pipeline == 1 and schedule != "1f1b":
                            continue
                        layout = Layout(
                            tensor, pipeline, data, expert, schedule=schedule, chunks=chunks, micro_batch=micro_batch
                        )
                        if not layout.problems(shape, job):
                            yield layout


def _variants(degrees: Layout, space: Space) -> Iterator[Layout]:
    """A layout with every way to save memory. With a single replica, ZeRO saves nothing."""
    alone = degrees.data == 1 and degrees.expert_replicas == 1
    for recompute in RECOMPUTE:
        for zero in space.zero[:1] if alone else space.zero:
            for offload in space.offload:
                yield replace(degrees, recompute=recompute, zero=zero, offload=offload)


def divisors(number: int) -> Sequence[int]:
    """In ascending order."""
    return [each for each in range(1, number + 1) if number % each == 0]
