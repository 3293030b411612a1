"""Passes over a step's micro-batches before the step itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from penstock.hooks.contracts import Routing

T = TypeVar("T")


def routed_ahead(
    module: nn.Module, forward: Callable[[T], Mapping[int, Routing]], batches: Iterable[T]
) -> Iterator[Mapping[int, Routing]]:
    """The routings of each batch, without gradients. Random draws and buffers are restored afterwards, so the passes of
    the step route the same way."""
    with _without_a_trace(module):
        for batch in batches:
            with torch.no_grad():
                routings = forward(batch)
            yield routings


@contextmanager
def _without_a_trace(module: nn.Module) -> Iterator[None]:
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = {buffer.device for buffer, _ in buffers if buffer.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        yield
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
