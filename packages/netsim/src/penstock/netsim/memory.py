"""Memory of one GPU: its share of weights, gradients and optimizer state, and the activations kept for backward.

Weights are BF16, gradients accumulate in FP32, and the optimizer keeps an FP32 copy of the weights and FP32 moments.
Activations are BF16; attention never stores its scores (FlashAttention); norms and elementwise work are split over the
tensor-parallel group (sequence parallelism, Korthikanti et al. 2022, arXiv 2205.05198).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.netsim.layout import Job, Layout, Optimizer, Recompute, Stage
from penstock.netsim.model_shape import ModelShape
from penstock.netsim.pipeline import held_micro_batches

WEIGHT_BYTES, GRADIENT_BYTES = 2, 4
# The FP32 copy, and one moment (Muon) or two (AdamW).
STATE_BYTES: dict[Optimizer, int] = {"muon": 8, "adamw": 12}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU. `gathered` are the weights of two layers that ZeRO 3 has fetched, `logits` the last stage's."""

    weights: float
    gathered: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    reserve: float

    @property
    def total(self) -> float:
        return (
            self.weights
            + self.gathered
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.reserve
        )


@dataclass(frozen=True, slots=True)
class Share:
    """Parameters of one GPU before ZeRO shards them: the part that all replicas hold, and its part of the experts.

    `vectors` are norms, biases and routers: whole on every GPU of a tensor-parallel group, and counted in `dense`.
    """

    dense: float
    vectors: float
    experts: float


def share_of(shape: ModelShape, layout: Layout, stage: Stage) -> Share:
    """The parameters that a GPU of this stage holds."""
    layers = stage.dense_layers + stage.moe_layers
    vectors = layers * shape.vectors + stage.moe_layers * shape.router + stage.head * shape.hidden
    split = layers * shape.attention_matrices + stage.dense_layers * shape.dense_mlp
    split += stage.moe_layers * shape.shared_mlp + (stage.embedding + stage.head) * shape.table
    experts = stage.moe_layers * shape.experts * shape.one_expert / (layout.expert * layout.expert_tensor)
    return Share(vectors + split / layout.tensor, float(vectors), experts)


def gpu_memory(
    shape: ModelShape, layout: Layout, job: Job, kinds: Sequence[tuple[int, Stage]], *, reserve: float = 0.0
) -> Memory:
    """The memory of the fullest GPU; `kinds` are the stages with their numbers, or one of each kind (`stage_kinds`)."""
    return max(
        (_stage_memory(shape, layout, job, number, stage, reserve) for number, stage in kinds),
        key=lambda memory: memory.total,
    )


def _stage_memory(shape: ModelShape, layout: Layout, job: Job, number: int, stage: Stage, reserve: float) -> Memory:
    share = share_of(shape, layout, stage)

    def held(from_stage: int) -> float:
        """Parameters on this GPU if replicas shard them from the given ZeRO stage on."""
        if layout.zero < from_stage:
            return share.dense + share.experts
        return share.dense / layout.data + share.experts / layout.expert_replicas

    tokens = layout.micro_batch * job.sequence
    moe, dense = (activation_bytes(shape, layout, layout.recompute, moe=moe, job=job) for moe in (True, False))
    kept = (stage.moe_layers * moe + stage.dense_layers * dense) * tokens
    kept *= held_micro_batches(layout.schedule, number, layout.pipeline, layout.chunks, layout.micro_batches(job))
    # While a layer is recomputed, all of its own activations exist.
    if layout.recompute == "full":
        whole = activation_bytes(shape, layout, "none", moe=stage.moe_layers > 0, job=job)
        kept += whole * tokens
    layers = max(1, stage.dense_layers + stage.moe_layers)
    return Memory(
        weights=WEIGHT_BYTES * held(3),
        gathered=WEIGHT_BYTES * 2 * (share.dense + share.experts) / layers if layout.zero == 3 else 0.0,
        gradients=GRADIENT_BYTES * held(2),
        optimizer=0.0 if layout.offload else STATE_BYTES[job.optimizer] * held(1),
        activations=kept,
        logits=4.0 * tokens * shape.vocabulary / layout.tensor if stage.head else 0.0,
        reserve=reserve,
    )


def activation_bytes(shape: ModelShape, layout: Layout, recompute: Recompute, *, moe: bool, job: Job) -> float:
    """Bytes that a GPU keeps of one layer for each token of its replica's micro-batch.

    Without recomputation: inputs and outputs of both norms; queries, keys, values and the input of attention's output
    matrix; for MLPs and each chosen expert the input, both halves of the first matmul and their gated product; and the
    experts' outputs. `selective` recomputes norms' outputs and gated products, `full` everything but the layer's input.
    """
    if recompute == "full":
        return 2.0 * shape.hidden / layout.tensor
    keep = 1 if recompute == "none" else 0
    values = (2 + 2 * keep) * shape.hidden + 2 * shape.query_width + 2 * shape.kv_width
    if shape.qk_norm:
        values += shape.query_width + shape.kv_width
    if moe:
        busy = shape.k * job.imbalance
        values += busy * (2 * shape.hidden + (2 + keep) * shape.expert_hidden)
        values += shape.shared_experts * (2 + keep) * shape.expert_hidden
    else:
        values += (2 + keep) * shape.dense_hidden
    return 2.0 * values / layout.tensor
