"""The weights of a `Gpt` in closed form; imports no torch."""

from __future__ import annotations

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.gpt.config import GptConfig
from penstock.moe_core.plan.weights import Sizes, Weights, matrix, tables


def sizes_of(config: GptConfig, *, tied: bool | None = None, rank: int | None = None) -> Sizes:
    """Sizes of a config that has `vocab_size`; `tied` and `rank` are what sharing strategies make of the embedding."""
    assert config.vocab_size is not None
    return Sizes(
        vocabulary=config.vocab_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        head_size=config.hidden_size // config.num_attention_heads,
        heads=config.num_attention_heads,
        key_value_heads=config.num_attention_heads,
        feed_forward=config.mlp_size,
        tied=config.tie_word_embeddings if tied is None else tied,
        rank=rank,
        sub_norm=config.sub_norm,
        positions=config.max_position_embeddings,
    )


def weights(sizes: Sizes) -> tuple[Weights, ...]:
    width, hidden, layers = sizes.width, sizes.feed_forward, sizes.layers
    sub_norms = ((width,), (hidden,)) if sizes.sub_norm else ()
    return (
        *tables(sizes),
        Weights(ParameterRole.EMBEDDING, (sizes.positions, width)),
        matrix(ParameterRole.MATRIX, (width, width), 4 * layers),
        matrix(ParameterRole.MATRIX, (hidden, width), layers),
        matrix(ParameterRole.MATRIX, (width, hidden), layers),
        Weights(ParameterRole.BIAS, (width,), 5 * layers),  # of attention, and of the down projection
        Weights(ParameterRole.BIAS, (hidden,), layers),
        Weights(ParameterRole.NORM, (width,), 2 * layers + 1),
        Weights(ParameterRole.BIAS, (width,), 2 * layers + 1),  # of the norms
        *(Weights(ParameterRole.NORM, shape, layers) for shape in sub_norms),
    )
