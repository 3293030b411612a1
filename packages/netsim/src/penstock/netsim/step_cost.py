"""Time of one training step by part, and the cost of a run: the whole-step model.

A stage's work on a micro-batch is the sum of matmuls (operations over the share of the peak that such matmuls reach),
elementwise work (activations read and written at memory bandwidth), tensor-parallel collectives, and expert dispatch
and combine. The busiest stage sets the pace. The schedule's bubble, the exposed exchange of gradients, and the
optimizer come on top. Sizes are those of one GPU; every figure of the machine is a `Figure` with its source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.netsim.accelerators import Accelerator
from penstock.netsim.hardware import Hardware
from penstock.netsim.layout import Job, Layout, Stage, stage_kinds, stages_of
from penstock.netsim.memory import (
    GRADIENT_BYTES,
    STATE_BYTES,
    WEIGHT_BYTES,
    Memory,
    activation_bytes,
    gpu_memory,
    share_of,
)
from penstock.netsim.model_shape import ModelShape
from penstock.netsim.pipeline import StageTimes, bubble_seconds

SECONDS_PER_DAY = 86_400
# Newton-Schulz iterations of Muon.
ITERATIONS = 5
# Every activation is written and read once in forward. Backward reads it, and writes and reads its gradient.
FORWARD_TRAFFIC, BACKWARD_TRAFFIC = 2, 3


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU's speed and memory, and the network between GPUs."""

    accelerator: Accelerator
    network: Hardware


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of a step by purpose; they add up to the step. Only exposed communication counts."""

    compute: float
    elementwise: float
    recompute: float
    tensor: float
    expert: float
    bubble: float
    data: float
    optimizer: float

    @property
    def total(self) -> float:
        work = self.compute + self.elementwise + self.recompute
        return work + self.tensor + self.expert + self.bubble + self.data + self.optimizer


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a layout: seconds per step by part, memory of the fullest GPU, and the totals of the run.

    `mfu` is the model's operations without recomputation divided by the operations that the GPUs could have done.
    """

    layout: Layout
    micro_batches: int
    parts: Parts
    memory: Memory
    tokens_per_second: float
    mfu: float
    days: float
    gpu_hours: float

    def money(self, price_per_gpu_hour: float) -> float:
        return self.gpu_hours * price_per_gpu_hour


def cost_of(shape: ModelShape, layout: Layout, job: Job, machine: Machine) -> Cost:
    """The cost of one layout, whether or not it fits in memory; raises `ProblemError` if the layout is invalid."""
    layout.check(shape, job)
    kinds = stage_kinds(stages_of(shape, layout.pipeline, layout.chunks))
    parts = step_parts(shape, layout, job, machine, busiest_stage(shape, layout, job, machine, kinds))
    memory = gpu_memory(shape, layout, job, kinds, reserve=machine.accelerator.reserve.value)
    rate = job.batch_tokens / parts.total
    done = rate * shape.token_operations(job.sequence)
    days = job.tokens / rate / SECONDS_PER_DAY
    return Cost(
        layout=layout,
        micro_batches=layout.micro_batches(job),
        parts=parts,
        memory=memory,
        tokens_per_second=rate,
        mfu=done / (layout.gpus * machine.accelerator.peak.value),
        days=days,
        gpu_hours=days * 24 * layout.gpus,
    )


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of forward over one micro-batch: matmuls of weights and of scores, elementwise work, and exposed
    communication."""

    products: float
    scores: float
    elementwise: float
    tensor: float
    expert: float

    @property
    def forward(self) -> float:
        return self.products + self.scores + self.elementwise + self.tensor + self.expert

    @property
    def backward(self) -> float:
        """Seconds for the gradients of inputs. Gradients of scores take twice their matmuls; recomputation inside the
        attention kernel is not counted."""
        elementwise = self.elementwise * BACKWARD_TRAFFIC / FORWARD_TRAFFIC
        return self.products + 2 * self.scores + elementwise + self.tensor + self.expert

    def __add__(self, other: Work) -> Work:
        return Work(
            self.products + other.products,
            self.scores + other.scores,
            self.elementwise + other.elementwise,
            self.tensor + other.tensor,
            self.expert + other.expert,
        )

    def times(self, number: int) -> Work:
        return Work(
            self.products * number,
            self.scores * number,
            self.elementwise * number,
            self.tensor * number,
            self.expert * number,
        )


@dataclass(frozen=True, slots=True)
class Busiest:
    """The stage that sets the pace, and its forward work on one micro-batch."""

    stage: Stage
    work: Work


def busiest_stage(
    shape: ModelShape, layout: Layout, job: Job, machine: Machine, kinds: Sequence[tuple[int, Stage]]
) -> Busiest:
    """Depends only on the layout's degrees and micro-batch, not on schedule, ZeRO, recomputation or offload."""
    dense = layer_work(shape, layout, job, machine, moe=False)
    moe = layer_work(shape, layout, job, machine, moe=True)
    head = _head_work(shape, layout, job, machine)
    every = [
        Busiest(stage, dense.times(stage.dense_layers) + moe.times(stage.moe_layers) + head.times(stage.head))
        for _, stage in kinds
    ]
    return max(every, key=lambda busiest: busiest.work.forward)


def step_parts(shape: ModelShape, layout: Layout, job: Job, machine: Machine, busiest: Busiest) -> Parts:
    work, micro_batches = busiest.work, layout.micro_batches(job)
    again = work if layout.recompute == "full" else Work(0.0, 0.0, 0.0, 0.0, 0.0)
    times = StageTimes(work.forward, work.backward + again.forward, work.products)
    bubble = bubble_seconds(layout.schedule, times, layout.pipeline, layout.chunks)
    bubble += 2 * (layout.pipeline * layout.chunks - 1) * _hand_over_seconds(shape, layout, job, machine)
    data, optimizer = _after_seconds(shape, layout, job, machine, busiest.stage, times)
    return Parts(
        compute=micro_batches * 3 * (work.products + work.scores),
        elementwise=micro_batches * work.elementwise * (1 + BACKWARD_TRAFFIC / FORWARD_TRAFFIC),
        recompute=micro_batches * (again.products + again.scores + again.elementwise),
        tensor=micro_batches * (2 * work.tensor + again.tensor),
        expert=micro_batches * (2 * work.expert + again.expert),
        bubble=bubble,
        data=data,
        optimizer=optimizer,
    )


def layer_work(shape: ModelShape, layout: Layout, job: Job, machine: Machine, *, moe: bool) -> Work:
    """Forward of one layer on one micro-batch, on one GPU of its tensor-parallel group."""
    gpu = machine.accelerator
    tokens = layout.micro_batch * job.sequence
    mlp = (shape.shared_mlp + shape.router) if moe else shape.dense_mlp
    products = 2 * tokens * (shape.attention_matrices + mlp) / layout.tensor / (gpu.peak.value * gpu.matmul_share.value)
    scores = tokens * shape.score_operations(job.sequence) / layout.tensor / (gpu.peak.value * gpu.matmul_share.value)
    has_mlp = not moe or shape.shared_experts > 0
    touched = activation_bytes(shape, layout, "none", moe=moe, job=job) * tokens
    elementwise = FORWARD_TRAFFIC * touched / gpu.memory_bandwidth.value
    collectives = 4 if has_mlp else 2  # gather before and scatter after attention; the same for the MLP
    tensor = collectives * _gather_seconds(layout.tensor, tokens * shape.hidden * WEIGHT_BYTES, machine)
    if not moe:
        return Work(products, scores, elementwise, tensor, 0.0)
    experts = _expert_seconds(shape, layout, job, machine)
    exchange = 2 * _exchange_seconds(shape, layout, job, machine)
    hidden = min(exchange * job.expert_overlap, products + scores + elementwise + experts)
    return Work(products + experts, scores, elementwise, tensor, exchange - hidden)


def _head_work(shape: ModelShape, layout: Layout, job: Job, machine: Machine) -> Work:
    gpu, tokens = machine.accelerator, layout.micro_batch * job.sequence
    products = 2 * tokens * shape.table / layout.tensor / (gpu.peak.value * gpu.matmul_share.value)
    tensor = _gather_seconds(layout.tensor, tokens * shape.hidden * WEIGHT_BYTES, machine)
    return Work(products, 0.0, 0.0, tensor, 0.0)


def _expert_seconds(shape: ModelShape, layout: Layout, job: Job, machine: Machine) -> float:
    """Matmuls of the busiest GPU's experts, or reading their weights if that takes longer."""
    gpu = machine.accelerator
    assignments = layout.micro_batch * job.sequence / layout.tensor * shape.k * job.imbalance
    products = 2 * assignments * shape.one_expert / (gpu.peak.value * gpu.expert_share.value)
    held = shape.experts * shape.one_expert / (layout.expert * layout.expert_tensor)
    return max(products, held * WEIGHT_BYTES / gpu.memory_bandwidth.value)


def _gather_seconds(group: int, whole_bytes: float, machine: Machine) -> float:
    """All-gather or reduce-scatter of `whole_bytes` over neighbouring GPUs: a ring at its slowest link's speed."""
    if group == 1:
        return 0.0
    network = machine.network
    inside = group <= network.gpus_per_node
    latency, bandwidth = (
        (network.inside_latency.value, network.inside_bandwidth.value)
        if inside
        else (network.between_latency.value, network.between_bandwidth.value)
    )
    return latency + whole_bytes * (group - 1) / group / bandwidth


def _exchange_seconds(shape: ModelShape, layout: Layout, job: Job, machine: Machine) -> float:
    """Dispatch or combine of one micro-batch: a token crosses to a node once and is forwarded inside it.

    The busiest GPU gets `imbalance` times the mean. If experts are split over GPUs, their inputs are gathered and their
    outputs added up inside the group.
    """
    network, group = machine.network, layout.expert * layout.expert_tensor
    if group == 1:
        return 0.0
    tokens = layout.micro_batch * job.sequence / layout.tensor
    token_bytes = shape.hidden * WEIGHT_BYTES
    nodes = -(-group // network.gpus_per_node)
    near = min(group, network.gpus_per_node)
    inside = tokens * shape.k * token_bytes * (1 - layout.expert_tensor / near if near > layout.expert_tensor else 0.0)
    between = tokens * token_bytes * (nodes - 1) / nodes * nodes_reached(shape, nodes)
    seconds = max(inside / network.inside_bandwidth.value, between / network.between_bandwidth.value) * job.imbalance
    latency = network.between_latency.value if nodes > 1 else network.inside_latency.value
    split = _gather_seconds(
        layout.expert_tensor, tokens * shape.k * token_bytes * layout.expert_tensor * job.imbalance, machine
    )
    return latency + seconds + split


def nodes_reached(shape: ModelShape, nodes: int) -> float:
    """The average number of nodes that hold a token's k experts if all choices are equally likely."""
    elsewhere = shape.experts - shape.experts / nodes
    missed = math.prod(max(0.0, elsewhere - chosen) / (shape.experts - chosen) for chosen in range(shape.k))
    return nodes * (1 - missed)


def _hand_over_seconds(shape: ModelShape, layout: Layout, job: Job, machine: Machine) -> float:
    """Seconds to send activations from one stage to the next."""
    if layout.pipeline == 1:
        return 0.0
    network = machine.network
    sent = layout.micro_batch * job.sequence * shape.hidden * WEIGHT_BYTES / layout.tensor
    return network.between_latency.value + sent / network.between_bandwidth.value


def _after_seconds(
    shape: ModelShape, layout: Layout, job: Job, machine: Machine, stage: Stage, times: StageTimes
) -> tuple[float, float]:
    """Exposed exchange between replicas, and the optimizer's step.

    Gradients are scattered during the last micro-batch's backward, and weights gathered during the first one's forward.
    For each micro-batch, ZeRO 2 scatters gradients and ZeRO 3 gathers weights twice, during that micro-batch's work.
    """
    gpu, network = machine.accelerator, machine.network
    share = share_of(shape, layout, stage)

    def exchange(bytes_each: float) -> float:
        local = layout.tensor * layout.data <= network.gpus_per_node
        bandwidth = network.inside_bandwidth.value if local else network.between_bandwidth.value
        dense = share.dense * (1 - 1 / layout.data)
        return (dense + share.experts * (1 - 1 / layout.expert_replicas)) * bytes_each / bandwidth

    scatter, gather = exchange(GRADIENT_BYTES), exchange(WEIGHT_BYTES)
    if layout.zero == 3:
        each = max(0.0, gather - times.forward) + max(0.0, gather + scatter - times.backward - times.weight)
        data = layout.micro_batches(job) * each
    elif layout.zero == 2:
        each = max(0.0, scatter - times.backward - times.weight)
        data = layout.micro_batches(job) * each + max(0.0, gather - times.forward)
    else:
        data = max(0.0, scatter - times.backward - times.weight) + max(0.0, gather - times.forward)

    whole = share.dense + share.experts
    owned = share.dense / layout.data + share.experts / layout.expert_replicas if layout.zero else whole
    if layout.offload:
        return data, owned * (GRADIENT_BYTES + WEIGHT_BYTES) / gpu.host_bandwidth.value
    moved = owned * (GRADIENT_BYTES + 2 * STATE_BYTES[job.optimizer] + WEIGHT_BYTES) / gpu.memory_bandwidth.value
    if job.optimizer == "muon":
        moved += muon_operations(shape) * owned / shape.parameters / (gpu.peak.value * gpu.matmul_share.value)
    return data, moved


def muon_operations(shape: ModelShape) -> float:
    """Newton-Schulz of all matrices once: for m x n with n <= m, an iteration is two matmuls of n x m x n and one of
    n x n x n."""

    def matrix(rows: int, columns: int) -> float:
        short, long = min(rows, columns), max(rows, columns)
        return ITERATIONS * (4.0 * short * short * long + 2.0 * short**3)

    attention = 2 * matrix(shape.hidden, shape.query_width) + 2 * matrix(shape.hidden, shape.kv_width)
    expert = 3 * matrix(shape.hidden, shape.expert_hidden)
    moe = (shape.experts + shape.shared_experts) * expert
    return (
        shape.layers * attention
        + shape.dense_layers * 3 * matrix(shape.hidden, shape.dense_hidden)
        + shape.moe_layers * moe
    )
