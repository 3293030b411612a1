"""Components of this package; imports no torch."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def exporters() -> list[Component]:
    return [
        Component(
            kind="exporter",
            name="hf",
            target="penstock.serve.huggingface:HuggingFaceExporter",
            config="penstock.serve.config:HuggingFaceConfig",
            summary="config.json, safetensors and tokenizer in the layout of the Hugging Face hub",
            reference="https://huggingface.co/docs/safetensors",
        )
    ]
