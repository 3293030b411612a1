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
        ),
        Component(
            kind="exporter",
            name="gguf",
            target="penstock.serve.gguf_export:GgufExporter",
            config="penstock.serve.config:GgufConfig",
            summary="A GGUF file for llama.cpp",
            reference="https://github.com/ggml-org/ggml/blob/master/docs/gguf.md",
        ),
    ]


@hookimpl
def servers() -> list[Component]:
    return [
        Component(
            kind="server",
            name="llama-cpp",
            target="penstock.serve.servers.llama_cpp:LlamaCppServer",
            config="penstock.serve.servers.config:LlamaCppServerConfig",
            summary="llama.cpp, for GGUF files",
            contract=2,
            reference="https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
        ),
        Component(
            kind="server",
            name="sglang",
            target="penstock.serve.servers.sglang:SglangServer",
            config="penstock.serve.servers.config:SglangServerConfig",
            summary="SGLang, for a GPU or a processor with AMX; its command line is not tested",
            contract=2,
            reference="https://docs.sglang.io",
        ),
        Component(
            kind="server",
            name="transformers",
            target="penstock.serve.servers.transformers:TransformersServer",
            config="penstock.serve.servers.config:TransformersServerConfig",
            summary="transformers serve with continuous batching",
            contract=2,
            reference="https://huggingface.co/docs/transformers/main/en/serving",
        ),
        Component(
            kind="server",
            name="vllm",
            target="penstock.serve.servers.vllm:VllmServer",
            config="penstock.serve.servers.config:VllmServerConfig",
            summary="vLLM in an environment of its own, on a GPU or a CPU",
            contract=2,
            reference="https://docs.vllm.ai",
        ),
    ]
