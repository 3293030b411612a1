"""How a training step is laid out over GPUs, and which layouts a model allows.

A replica of the model takes `tensor` x `pipeline` GPUs, and there are `data` replicas. Experts have a separate layout
over the `tensor` x `data` GPUs of a pipeline stage (Megatron-LM's folding): each group of `expert` x `expert_tensor`
GPUs holds all experts, and there are `tensor * data / (expert * expert_tensor)` such groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from penstock.hooks.problems import Problem, ProblemError
from penstock.netsim.model_shape import ModelShape
from penstock.netsim.pipeline import Schedule, least_micro_batches

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)
Optimizer = Literal["muon", "adamw"]


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained: tokens per sequence, per step and of the whole run, and how evenly experts are chosen.

    `imbalance` is the load of the busiest GPU's experts over the mean; 1 is perfect. `expert_overlap` is the share of
    dispatch and combine that overlaps with other work: 0 without overlap, up to 1 with two alternating micro-batches.
    """

    sequence: int = 4096
    batch_tokens: int = 2**24  # GLM-4.5 (arXiv 2508.06471): 16M tokens at first, 64M later
    tokens: float = 23e12  # GLM-4.5: 15T general, 7T of code and reasoning, 1T after
    optimizer: Optimizer = "muon"
    imbalance: float = 1.0
    expert_overlap: float = 0.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism, schedule, and measures that save memory.

    `chunks` of the model per stage (more than 1 only in `interleaved`); `micro_batch` sequences; ZeRO stage `zero`:
    replicas shard the optimizer's state (1), also gradients (2), also weights (3). `recompute` covers nothing, norms
    and activation functions, or whole layers. With `offload` the host keeps the optimizer's state and runs its step.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    expert_tensor: int = 1
    schedule: Schedule = "1f1b"
    chunks: int = 1
    micro_batch: int = 1
    zero: int = 1
    recompute: Recompute = "selective"
    offload: bool = False

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def expert_replicas(self) -> int:
        """GPUs that hold the same part of the same experts."""
        return self.tensor * self.data // (self.expert * self.expert_tensor)

    def micro_batches(self, job: Job) -> int:
        """Micro-batches per replica and step."""
        return job.batch_tokens // (job.sequence * self.micro_batch * self.data)

    def problems(self, shape: ModelShape, job: Job) -> list[Problem]:
        """Everything that makes this layout invalid; empty if it is valid."""
        return [Problem("bad-layout", what, "layout", fix) for holds, what, fix in self._rules(shape, job) if not holds]

    def check(self, shape: ModelShape, job: Job) -> None:
        """Raises `ProblemError` with all problems."""
        if found := self.problems(shape, job):
            raise ProblemError(found)

    def _rules(self, shape: ModelShape, job: Job) -> list[tuple[bool, str, str]]:
        degrees = (self.tensor, self.pipeline, self.data, self.expert, self.expert_tensor, self.chunks)
        if min(*degrees, self.micro_batch, job.sequence) < 1:
            return [(False, "a degree of parallelism or size is below 1", "use 1 for no parallelism")]
        group, sequences = self.expert * self.expert_tensor, job.batch_tokens / job.sequence
        step = f"{self.data} replicas x {self.micro_batch} sequences"
        return [
            (
                shape.heads % self.tensor == 0 and shape.kv_heads % min(self.tensor, shape.kv_heads) == 0,
                f"{shape.heads} heads are not divisible by tensor parallelism {self.tensor}",
                f"use a divisor of {shape.heads}",
            ),
            (
                shape.experts % self.expert == 0,
                f"{shape.experts} experts are not divisible by expert parallelism {self.expert}",
                f"use a divisor of {shape.experts}",
            ),
            (
                (self.tensor * self.data) % group == 0,
                f"expert groups of {group} GPUs do not divide the {self.tensor * self.data} GPUs of a pipeline stage",
                "lower the expert parallelism",
            ),
            (
                shape.expert_hidden % self.expert_tensor == 0,
                f"the expert width {shape.expert_hidden} is not divisible by expert tensor parallelism "
                f"{self.expert_tensor}",
                f"use a divisor of {shape.expert_hidden}",
            ),
            (
                self.pipeline * self.chunks <= shape.layers,
                f"{self.pipeline} stages of {self.chunks} chunks are more than {shape.layers} layers",
                "use fewer stages or chunks",
            ),
            (
                (self.chunks > 1) == (self.schedule == "interleaved"),
                f"{self.chunks} chunks per stage do not fit the schedule {self.schedule}",
                "use more than one chunk with `interleaved`, and one with every other schedule",
            ),
            (
                sequences % (self.data * self.micro_batch) == 0 and sequences > 0,
                f"a step of {sequences:g} sequences is not divisible by {step}",
                "change the batch or the micro-batch",
            ),
            (
                self.schedule != "interleaved" or self.micro_batches(job) % self.pipeline == 0,
                f"{self.micro_batches(job)} micro-batches are not a multiple of {self.pipeline} interleaved stages",
                "change the batch, or use 1f1b",
            ),
            (
                self.micro_batches(job) >= least_micro_batches(self.schedule, self.pipeline),
                f"{self.micro_batches(job)} micro-batches are too few for {self.schedule} on {self.pipeline} stages",
                f"use a batch of at least {least_micro_batches(self.schedule, self.pipeline)} micro-batches, or 1f1b",
            ),
            (0 <= self.zero <= 3, f"unknown ZeRO stage {self.zero}", "use 0, 1, 2 or 3"),
        ]


@dataclass(frozen=True, slots=True)
class Stage:
    """What one pipeline stage holds."""

    dense_layers: int
    moe_layers: int
    embedding: bool
    head: bool


def stages_of(shape: ModelShape, pipeline: int, chunks: int = 1) -> tuple[Stage, ...]:
    """The stages, with layers in order, distributed so that the busiest chunk has as little work as possible.

    The head is as much work as `head_layers` layers with experts. Each chunk gets at most the smallest number of layers
    that is enough for all; the first chunks are the ones that get fewer.
    """
    parts = pipeline * chunks
    head_layers = shape.table / (shape.attention_matrices + (shape.k + shape.shared_experts) * shape.one_expert)
    sizes_to_try = range(1, shape.layers + 2 + int(head_layers))
    most = next(size for size in sizes_to_try if (parts - 1) * size + _beside(size, head_layers) >= shape.layers)
    spare = (parts - 1) * most + _beside(most, head_layers) - shape.layers
    sizes = [most] * (parts - 1) + [_beside(most, head_layers)]
    for part in range(parts):
        taken = min(sizes[part], -(-spare // (parts - part)))
        sizes[part] -= taken
        spare -= taken
    ends = [sum(sizes[: part + 1]) for part in range(parts)]
    dense = [max(0, min(end, shape.dense_layers) - (end - size)) for end, size in zip(ends, sizes, strict=True)]
    return tuple(
        Stage(
            dense_layers=sum(dense[stage::pipeline]),
            moe_layers=sum(sizes[stage::pipeline]) - sum(dense[stage::pipeline]),
            embedding=stage == 0,
            head=stage == pipeline - 1,
        )
        for stage in range(pipeline)
    )


def stage_kinds(stages: Sequence[Stage]) -> tuple[tuple[int, Stage], ...]:
    """The first stage of each kind with its number: later ones take as long and hold no more micro-batches."""
    first: dict[Stage, int] = {}
    for number, stage in enumerate(stages):
        first.setdefault(stage, number)
    return tuple((number, stage) for stage, number in first.items())


def _beside(size: int, head_layers: float) -> int:
    """Layers that the head leaves room for in a chunk of `size`."""
    return max(0, int(size - head_layers)) if size > 1 else 1
