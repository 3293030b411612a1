"""How the layers of a model compute in the passes of training: as they are, checkpointed, compiled.

What is asked for stands in for a layer's own forward while a training pass lasts. So parameters keep their names, and
evaluation, generation and what is exported meet the model as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from penstock.hooks.contracts import Layered, Model
from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.frozen_base.adapters import standing_in
from penstock.run.config import TrainSettings
from penstock.train.activation_checkpointing import Checkpointed

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class LayerPasses:
    """What stands in for the forward of each layer; `changes` are applied in order, the first innermost."""

    layers: Sequence[nn.Module]
    changes: Sequence[Callable[[nn.Module, Forward], Forward]]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Lasts as long as a pass; a pass without gradients is left alone."""
        with ExitStack() as stack:
            if torch.is_grad_enabled():
                for layer in self.layers:
                    forward: Forward = layer.forward
                    for change in self.changes:
                        forward = change(layer, forward)
                    stack.enter_context(standing_in(layer, forward))
            yield


def layer_passes(model: Model, train: TrainSettings) -> LayerPasses:
    """What the settings ask for; raises `ProblemError` for a model that does not name its layers."""
    layers = layers_of(model, train)
    changes: list[Callable[[nn.Module, Forward], Forward]] = []
    if train.activation_checkpointing != "none":
        changes.append(Checkpointed.of(model, layers, selective=train.activation_checkpointing == "selective"))
    return LayerPasses(layers if changes else (), changes)


def layers_of(model: Model, train: TrainSettings) -> Sequence[nn.Module]:
    """The layers of a model; raises `ProblemError` if a setting needs them and the model does not name any."""
    layers = list(model.blocks()) if isinstance(model, Layered) else []
    if not layers and train.activation_checkpointing != "none":
        what = f"{type(model).__name__} does not name its layers, one of which is computed again at a time"
        fix = "set it to none, or use another architecture"
        raise ProblemError(Problem("unsupported", what, "train.activation_checkpointing", fix))
    return layers
