"""What a model is given to read, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.contracts import Batch, Inputs


def what_is_read(inputs: Inputs) -> Inputs | Tensor:
    """Tokens alone where that says all: every architecture reads those, of the first contract too.

    Padding behind a text need not be told to a causal model either: no real token sees it.
    """
    more = [getattr(inputs, name) for name in ("document_BS", "position_BS", "type_BS", "encoder")]
    alone = all(value is None for value in more) and (inputs.real_BS is None or _only_behind(inputs.real_BS))
    return inputs.token_BS if alone else inputs


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


def _only_behind(real_BS: Tensor) -> bool:
    return bool((real_BS[:, :-1] >= real_BS[:, 1:]).all())
