"""Pipeline schedules: how long a step takes for given times of one stage, and how many micro-batches a stage holds.

A stage works `forward` seconds on a micro-batch, then `backward` seconds for the gradient of its input and `weight`
seconds for that of its weights. Only the zero-bubble schedules separate the last part.

Sources: 1F1B, Harlap et al. 2018 (arXiv 1806.03377); interleaved, Narayanan et al. 2021 (arXiv 2104.04473); ZB-H1
and ZB-H2, Qi et al. 2023 (arXiv 2401.10241). Tests simulate each schedule operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Schedule = Literal["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of one stage (all of its chunks) on one micro-batch."""

    forward: float
    backward: float
    weight: float

    @property
    def all(self) -> float:
        return self.forward + self.backward + self.weight


def bubble_seconds(schedule: Schedule, times: StageTimes, stages: int, chunks: int) -> float:
    """Seconds of a step beyond the work of one stage on all of its micro-batches.

    Every stage has `chunks` of the model, more than one only in `interleaved`. Assumes that all stages take equal times
    and that there are at least `least_micro_batches`. For the zero-bubble schedules it also assumes that gradients of
    weights take no longer than forward or gradients of inputs, because they are matmuls without scores and
    communication. The step ends with the last stage, because the gradient norm needs all stages.
    """
    match schedule:
        case "gpipe" | "1f1b":
            waiting = times.all
        case "interleaved":
            waiting = times.all / chunks
        case "zb-h1":
            waiting = max(times.forward, times.forward + times.backward - times.weight)
        case "zb-h2":
            waiting = max(times.forward, times.forward + times.backward - 2 * times.weight)
    return (stages - 1) * waiting


def least_micro_batches(schedule: Schedule, stages: int) -> int:
    """The smallest number that gives a schedule enough gradients of weights to fill its gaps; `interleaved` takes
    only multiples."""
    match schedule:
        case "gpipe" | "1f1b":
            return 1
        case "interleaved" | "zb-h1":
            return stages
        case "zb-h2":
            return 2 * stages


def step_seconds(schedule: Schedule, times: StageTimes, stages: int, chunks: int, micro_batches: int) -> float:
    """Seconds of a step in which every stage works on `micro_batches`."""
    return micro_batches * times.all + bubble_seconds(schedule, times, stages, chunks)


def held_micro_batches(schedule: Schedule, stage: int, stages: int, chunks: int, micro_batches: int) -> float:
    """The most micro-batches whose activations a stage holds at once; in `interleaved`, a chunk counts as a fraction.

    The zero-bubble schedules hold them until the gradient of the weights is done, which early stages delay longest.
    """
    match schedule:
        case "gpipe":
            return micro_batches
        case "1f1b":
            return min(micro_batches, stages - stage)
        case "interleaved":
            return min(micro_batches * chunks, 2 * (stages - stage - 1) + (chunks - 1) * stages + 1) / chunks
        case "zb-h1":
            return min(micro_batches, stages)
        case "zb-h2":
            return min(micro_batches, 2 * stages - 1)
