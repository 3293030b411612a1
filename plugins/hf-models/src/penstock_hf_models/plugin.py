"""The components of penstock-hf-models; imports neither torch nor transformers."""

from penstock.hooks import Component, hookimpl


@hookimpl
def architectures() -> list[Component]:
    return [
        Component(
            kind="architecture",
            name="hf",
            target="penstock_hf_models.build:hf_model",
            config="penstock_hf_models.config:HfConfig",
            summary="Any causal, encoder or encoder-decoder model of transformers, from a config or pretrained",
            capabilities=frozenset({"cached", "causal", "huggingface-layout", "padding"}),
            contract=2,
            reference="https://huggingface.co/docs/transformers",
        )
    ]
