"""The components of this package; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl

ALBERT = "https://arxiv.org/abs/1909.11942"


@hookimpl
def sharing() -> list[Component]:
    return [
        Component(
            kind="sharing",
            name="tied-embeddings",
            target="penstock.sharing.tied:TiedEmbeddings",
            config="penstock.sharing.config:TiedEmbeddingsConfig",
            summary="Input and output embedding are one matrix",
            reference="https://arxiv.org/abs/1608.05859",
        ),
        Component(
            kind="sharing",
            name="tied-gains",
            target="penstock.sharing.tied_gains:TiedGains",
            config="penstock.sharing.config:TiedGainsConfig",
            summary="Layers share matrices, each with its own learned per-output gains",
            contract=2,
            reference=ALBERT,
        ),
        Component(
            kind="sharing",
            name="cross-layer",
            target="penstock.sharing.across:CrossLayer",
            config="penstock.sharing.config:CrossLayerConfig",
            summary="Layers are one: neighbours, alternating ones, or groups that you name",
            contract=3,
            reference=ALBERT,
        ),
        Component(
            kind="sharing",
            name="attention",
            target="penstock.sharing.across:AttentionSharing",
            config="penstock.sharing.config:AttentionSharingConfig",
            summary="The attention of several layers is one",
            contract=3,
            reference=ALBERT,
        ),
        Component(
            kind="sharing",
            name="feed-forward",
            target="penstock.sharing.across:FeedForwardSharing",
            config="penstock.sharing.config:FeedForwardSharingConfig",
            summary="The feed-forward networks of several layers are one",
            contract=3,
            reference=ALBERT,
        ),
        Component(
            kind="sharing",
            name="encoder-decoder",
            target="penstock.sharing.encoder_decoder:EncoderDecoder",
            config="penstock.sharing.config:EncoderDecoderConfig",
            summary="Each layer of the encoder is one with that of the decoder",
            contract=3,
            reference="https://arxiv.org/abs/1810.12559",
        ),
        Component(
            kind="sharing",
            name="factorised-embedding",
            target="penstock.sharing.factorised:FactorisedEmbedding",
            config="penstock.sharing.config:FactorisedEmbeddingConfig",
            summary="The embedding is a narrow table times a projection",
            contract=3,
            reference=ALBERT,
        ),
        Component(
            kind="sharing",
            name="learned-sharing",
            target="penstock.sharing.learned:LearnedSharing",
            config="penstock.sharing.config:LearnedSharingConfig",
            summary="Training learns which layers are one, within a budget",
            contract=3,
        ),
    ]
