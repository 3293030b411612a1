"""The weights of a `GlmMoe` in closed form; imports no torch.

Shape suffixes as in `penstock.moe_core.glm.model`. Routers are counted as one matrix [E, D], which the top-k routers
have.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.plan.weights import Sizes, Weights, matrix, tables


def sizes_of(
    config: GlmMoeConfig, *, experts_per_token: int, tied: bool | None = None, rank: int | None = None
) -> Sizes:
    """Sizes of a config that has `vocab_size`. `experts_per_token` is the router's k; `tied` and `rank` are what
    sharing strategies make of the embedding."""
    assert config.vocab_size is not None
    mixture = bool(config.expert_layers)
    return Sizes(
        vocabulary=config.vocab_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        head_size=config.head_dim,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        feed_forward=config.intermediate_size,
        tied=config.tie_word_embeddings if tied is None else tied,
        rank=rank,
        experts=config.n_routed_experts if mixture else 0,
        experts_per_token=experts_per_token if mixture else 0,
        shared_experts=config.n_shared_experts if mixture else 0,
        expert_width=config.moe_intermediate_size if mixture else 0,
        dense_layers=config.first_k_dense_replace if mixture else 0,
        attention_bias=config.attention_bias,
        qk_norm=config.use_qk_norm,
        sub_norm=config.sub_norm,
    )


def weights(sizes: Sizes) -> tuple[Weights, ...]:
    return (
        *tables(sizes),
        *_attention(sizes),
        *_feed_forward(sizes),
        *(_experts(sizes) if sizes.expert_layers else ()),
        Weights(ParameterRole.NORM, (sizes.width,), 2 * sizes.layers + 1),
    )


def _attention(sizes: Sizes) -> Iterator[Weights]:
    width, layers = sizes.width, sizes.layers
    query, key = sizes.attention_width, sizes.key_value_heads * sizes.head_size
    yield matrix(ParameterRole.MATRIX, (query, width), layers)
    yield matrix(ParameterRole.MATRIX, (key, width), 2 * layers)
    yield matrix(ParameterRole.MATRIX, (width, query), layers)
    if sizes.attention_bias:
        yield Weights(ParameterRole.BIAS, (query,), layers)
        yield Weights(ParameterRole.BIAS, (key,), 2 * layers)
    if sizes.qk_norm:
        yield Weights(ParameterRole.NORM, (sizes.head_size,), 2 * layers)
    if sizes.sub_norm:
        yield Weights(ParameterRole.NORM, (query,), layers)


def _feed_forward(sizes: Sizes) -> Iterator[Weights]:
    """Of dense layers."""
    yield from _swiglu(sizes, sizes.feed_forward, sizes.layers - sizes.expert_layers)


def _experts(sizes: Sizes) -> Iterator[Weights]:
    """Of mixture-of-experts layers: routed experts, the shared one, and the router."""
    layers, hidden, width = sizes.expert_layers, sizes.expert_width, sizes.width
    for shape in ((sizes.experts, 2 * hidden, width), (sizes.experts, width, hidden)):
        multiplied = layers * sizes.experts_per_token * shape[1] * shape[2]
        yield Weights(ParameterRole.EXPERT, shape, layers, multiplied)
    if sizes.sub_norm:
        yield Weights(ParameterRole.NORM, (sizes.experts, hidden), layers)
    if sizes.shared_experts:
        yield from _swiglu(sizes, sizes.shared_experts * hidden, layers)
    yield matrix(ParameterRole.ROUTER, (sizes.experts, width), layers)


def _swiglu(sizes: Sizes, hidden: int, layers: int) -> Iterator[Weights]:
    yield matrix(ParameterRole.MATRIX, (hidden, sizes.width), 2 * layers)
    yield matrix(ParameterRole.MATRIX, (sizes.width, hidden), layers)
    if sizes.sub_norm:
        yield Weights(ParameterRole.NORM, (hidden,), layers)
