"""What this package offers; imports no torch."""

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
        )
    ]
