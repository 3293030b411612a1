"""The weights of a model as numbers, without the model: what a planner counts.

A model is a list of `Weights`, from which its parameters, active parameters, FLOPs and bytes follow. Counts are exact
integers, equal to those of the built model. Imports no torch.

Shape suffixes: V vocabulary, D model width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from penstock.hooks.contracts import ParameterRole

TABLES = (ParameterRole.EMBEDDING, ParameterRole.HEAD)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides the shapes of a decoder's weights. Without experts every layer is dense."""

    vocabulary: int
    width: int
    layers: int
    head_size: int
    heads: int
    key_value_heads: int
    feed_forward: int
    tied: bool = True
    rank: int | None = None
    """Width of the table of a factorised embedding."""
    experts: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_width: int = 0
    dense_layers: int = 0
    """Dense layers at the beginning of a model with experts."""
    attention_bias: bool = True
    qk_norm: bool = True
    sub_norm: bool = False
    positions: int = 0
    """Rows of a table of learned positions."""

    @property
    def expert_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def active_expert_width(self) -> int:
        """Hidden width that a token uses in a layer of experts."""
        return (self.experts_per_token + self.shared_experts) * self.expert_width

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_size


@dataclass(frozen=True, slots=True)
class Weights:
    """`copies` tensors of one shape and role. `multiplied` is how many of their numbers a token is multiplied by in one
    forward pass, in matrix products: none of an embedding, which is looked up, and k of E experts."""

    role: ParameterRole
    shape: tuple[int, ...]
    copies: int = 1
    multiplied: int = 0

    @property
    def parameters(self) -> int:
        return self.copies * math.prod(self.shape)

    @property
    def active(self) -> int:
        return self.multiplied if self.role == ParameterRole.EXPERT else self.parameters


def matrix(role: ParameterRole, shape: tuple[int, ...], copies: int = 1) -> Weights:
    """Matrices that multiply every token once."""
    return Weights(role, shape, copies, copies * math.prod(shape))


def tables(sizes: Sizes) -> Iterator[Weights]:
    """Embedding [V, D] and head; of rank R, tables [V, R] with a projection [D, R] each. Tied ones store one table."""
    columns = sizes.width if sizes.rank is None else sizes.rank
    table = (sizes.vocabulary, columns)
    if sizes.tied:
        yield matrix(ParameterRole.EMBEDDING, table)  # looked up as the embedding, multiplied as the head
    else:
        yield Weights(ParameterRole.EMBEDDING, table)
        yield matrix(ParameterRole.HEAD, table)
    if sizes.rank is not None:
        yield matrix(ParameterRole.MATRIX, (sizes.width, sizes.rank), 2)


def total(weights: Iterable[Weights]) -> int:
    return sum(each.parameters for each in weights)


def active(weights: Iterable[Weights]) -> int:
    """Parameters that one token uses: k of E routed experts, and the whole embedding."""
    return sum(each.active for each in weights)


def by_role(weights: Iterable[Weights]) -> dict[str, int]:
    """Parameters of each role that has any."""
    counts: dict[str, int] = {}
    for each in weights:
        if each.parameters:
            counts[each.role.value] = counts.get(each.role.value, 0) + each.parameters
    return counts


def table_share(weights: Iterable[Weights]) -> float:
    """Share of the parameters that embedding and head have. The projections of a factorised embedding are matrices, as
    by role, and learned positions are embeddings."""
    weights = tuple(weights)
    return total(each for each in weights if each.role in TABLES) / total(weights)


def forward_flops(weights: Iterable[Weights], sizes: Sizes, sequence_length: int) -> int:
    """FLOPs of a token in a forward pass, the mean over the positions of a causal sequence: two for each weight that
    multiplies it, and those of attention. Norms, biases and activations are left out."""
    attention = attention_flops(sizes.layers, sizes.attention_width, sequence_length)
    return 2 * sum(each.multiplied for each in weights) + attention


def attention_flops(layers: int, attention_width: int, sequence_length: int, *, causal: bool = True) -> int:
    """FLOPs of a token in the products with keys and with values of each layer: of (S + 1) / 2 positions in the mean,
    or of all S where a token sees what follows it.

    >>> attention_flops(2, 8, 3), attention_flops(2, 8, 3, causal=False)
    (128, 192)
    """
    return 2 * layers * attention_width * (sequence_length + 1 if causal else 2 * sequence_length)


def training_flops(forward: int) -> int:
    """A backward pass has two products for each of the forward pass: by the weights, and by the inputs."""
    return 3 * forward
