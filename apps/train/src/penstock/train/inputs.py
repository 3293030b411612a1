"""The inputs of a model, and their device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.contracts import Batch, Inputs


def what_is_read(inputs: Inputs) -> Inputs | Tensor:
    """Just the tokens if nothing else is known: every architecture reads those, including one of contract 1."""
    return inputs if inputs.known else inputs.token_BS


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor on a device."""
    return _moved(batch, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (Batch, Inputs)):
        return replace(value, **{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    if isinstance(value, Mapping):
        return {name: _moved(each, device) for name, each in value.items()}
    return value
