"""The dtype of an evaluation: a model that trains in bf16 or fp32 may be measured in fp64, whose noise is no figure's
business: what 16 texts read together differ from each alone is 4e-6 nats in fp32, and 2e-15 in fp64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from penstock.hooks.contracts import LanguageModel


@contextmanager
def computing_in(model: LanguageModel, dtype: torch.dtype) -> Iterator[None]:
    """Within this context, layers compute in `dtype`; in fp64, from parameters and buffers in fp64. Afterwards all is
    as it was, bit for bit."""
    module, compute_dtype = cast(nn.Module, model), model.compute_dtype
    tensors = [each for each in (*module.parameters(), *module.buffers()) if each.is_floating_point()]
    stored = [(each, each.data) for each in tensors] if dtype == torch.float64 else []
    try:
        for tensor, data in stored:
            tensor.data = data.double()
        model.compute_dtype = dtype
        yield
    finally:
        model.compute_dtype = compute_dtype
        for tensor, data in stored:
            tensor.data = data
