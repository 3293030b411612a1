"""The components of this package; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


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
            reference="https://arxiv.org/abs/1909.11942",
        ),
    ]
