"""Weights to start from: a Hugging Face folder of safetensors, or a llama2.c file."""

from __future__ import annotations

from pathlib import Path

import torch

from penstock.hooks.contracts import LanguageModel
from penstock.moe_core.glm import llama2c
from penstock.moe_core.hub.tensors import load_tensors, read_tensors


def load_pretrained(model: LanguageModel, path: Path) -> None:
    """Puts the weights at `path` into a model of their sizes; raises `ProblemError` with every missing, damaged or
    incomplete file, and every tensor that only the model or only the files have."""
    if path.is_dir():
        tensors = read_tensors(path)
    else:
        tensors = {name: torch.from_numpy(array) for name, array in llama2c.read_weights(path).items()}
    load_tensors(model, tensors, path)
