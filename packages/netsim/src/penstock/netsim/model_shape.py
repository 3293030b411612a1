"""Sizes of a mixture of experts for the cost model, and the parameters and operations that follow from them.

Multiplications and additions count as one operation each. Attention is causal: half of the scores are computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from penstock.hooks.problems import Problem, ProblemError, did_you_mean


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder of `layers` blocks, the first `dense_layers` of them with a dense MLP, the others with experts.

    MLPs and experts are gated, three matrices each. Queries, keys and values have a bias if `attention_bias` is set.
    Embedding and head are two matrices. Multi-token prediction layers are not counted.
    """

    name: str
    layers: int
    dense_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    dense_hidden: int
    experts: int
    k: int
    expert_hidden: int
    shared_experts: int
    vocabulary: int
    attention_bias: bool
    qk_norm: bool
    source: str

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_size

    @property
    def attention_matrices(self) -> int:
        return self.hidden * (2 * self.query_width + 2 * self.kv_width)

    @property
    def vectors(self) -> int:
        """Norms and biases of one layer, which every GPU of a tensor-parallel group holds whole."""
        bias = self.query_width + 2 * self.kv_width if self.attention_bias else 0
        return 2 * self.hidden + bias + (2 * self.head_size if self.qk_norm else 0)

    @property
    def one_expert(self) -> int:
        return 3 * self.hidden * self.expert_hidden

    @property
    def dense_mlp(self) -> int:
        return 3 * self.hidden * self.dense_hidden

    @property
    def shared_mlp(self) -> int:
        return self.shared_experts * self.one_expert

    @property
    def router(self) -> int:
        return self.hidden * self.experts

    @property
    def table(self) -> int:
        """The embedding, or the head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        dense = self.dense_layers * self.dense_mlp
        sparse = self.moe_layers * (self.experts * self.one_expert + self.shared_mlp + self.router)
        each = self.layers * (self.attention_matrices + self.vectors)
        return each + dense + sparse + 2 * self.table + self.hidden

    @property
    def active_parameters(self) -> int:
        """Parameters that compute for one token; the embedding is only looked up and does not count."""
        idle = self.moe_layers * (self.experts - self.k) * self.one_expert
        return self.parameters - idle - self.table

    def token_operations(self, sequence: int) -> float:
        """Operations of forward and backward for one token without recomputation: six per weight, and the scores."""
        weights = self.active_parameters - self.layers * self.vectors - self.hidden
        return 6.0 * weights + 3 * self.layers * self.score_operations(sequence)

    def score_operations(self, sequence: int) -> float:
        """Forward operations of one layer's scores and of their product with the values, for one token."""
        return 2.0 * sequence * self.query_width


_SHAPES = (
    ModelShape(
        "glm-4.6",
        layers=92,
        dense_layers=3,
        hidden=5120,
        heads=96,
        kv_heads=8,
        head_size=128,
        dense_hidden=12_288,
        experts=160,
        k=8,
        expert_hidden=1536,
        shared_experts=1,
        vocabulary=151_552,
        attention_bias=True,
        qk_norm=True,
        source="config.json of zai-org/GLM-4.6 (355B-A32B with its MTP layer)",
    ),
    ModelShape(
        "glm-4.5-air",
        layers=46,
        dense_layers=1,
        hidden=4096,
        heads=96,
        kv_heads=8,
        head_size=128,
        dense_hidden=10_944,
        experts=128,
        k=8,
        expert_hidden=1408,
        shared_experts=1,
        vocabulary=151_552,
        attention_bias=True,
        qk_norm=False,
        source="config.json of zai-org/GLM-4.5-Air (106B-A12B)",
    ),
)

SHAPES: Mapping[str, ModelShape] = MappingProxyType({shape.name: shape for shape in _SHAPES})


def shape_named(name: str) -> ModelShape:
    """The shape of that name; raises `ProblemError` with the nearest name if it is unknown."""
    if name not in SHAPES:
        what = f"unknown model shape '{name}'"
        raise ProblemError(Problem("unknown-model", what, "cost", did_you_mean(name, SHAPES)))
    return SHAPES[name]
