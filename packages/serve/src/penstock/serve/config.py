"""Schemas of the exporters; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock.hooks.config import Schema


class HuggingFaceConfig(Schema):
    """Settings of `hf`."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the stored weights. Published GLM-4.x checkpoints are bfloat16, and serving engines compute in
    bfloat16; float32 keeps every bit of a trained checkpoint."""
    engine: Literal["transformers", "vllm", "sglang"] = "transformers"
    """What the export is for. vLLM and SGLang do not tie the head of every architecture to its embedding, so for them
    a tied head is stored as a tensor of its own; transformers ties it while loading."""
    shard_bytes: int = Field(default=5_000_000_000, gt=0)
    """Size limit of a weight file; 5 GB is the shard size that the hub recommends."""


class GgufConfig(Schema):
    """Settings of `gguf`."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the stored matrices. llama.cpp rounds what it multiplies with bfloat16 too; float32 computes as
    training did."""
