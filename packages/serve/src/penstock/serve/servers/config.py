"""Settings of the servers; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPath


class TransformersServerConfig(Schema):
    """Settings of `transformers`."""

    python: str | None = None
    """Python of the environment that has transformers with its extra `serving`. Null takes that of
    PENSTOCK_TRANSFORMERS_PYTHON, or else the one that runs Penstock."""


class VllmServerConfig(Schema):
    """Settings of `vllm`."""

    python: str | None = None
    """Python of vLLM's environment, which is its own because vLLM pins its torch. Null takes that of
    PENSTOCK_VLLM_PYTHON, or else the one that runs Penstock."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What vLLM computes on; `auto` is `cuda` where the machine has an NVIDIA GPU."""
    cache_gib: int = Field(default=2, gt=0)
    """GiB of the key/value cache on a CPU."""
    eager: bool = False
    """Do not compile: vLLM starts in 58 s instead of 80 s (two cores, compiled before), and answers slower."""


class SglangServerConfig(Schema):
    """Settings of `sglang`."""

    python: str | None = None
    """Python of SGLang's environment, which is its own because SGLang pins its torch. Null takes that of
    PENSTOCK_SGLANG_PYTHON, or else the one that runs Penstock."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What SGLang computes on; `auto` is `cuda` where the machine has an NVIDIA GPU."""
    config_file: InputPath | None = None
    """File of further arguments for SGLang's `--config`, such as `api-key`."""


class LlamaCppServerConfig(Schema):
    """Settings of `llama-cpp`."""

    program: str | None = None
    """The program `llama-server`. Null takes that of PENSTOCK_LLAMA_SERVER, or else the one on the path."""
    cache: Literal["f32", "f16", "bf16", "q8_0"] = "f16"
    """Type of the key/value cache; f16 is llama.cpp's default, f32 rounds nothing."""
