"""How the layers of a model compute in the passes of training: as they are, checkpointed, compiled.

What is asked for stands in for a layer's own forward while a training pass lasts. So parameters keep their names, and
evaluation, generation and what is exported meet the model as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from penstock.hooks.contracts import Layered, Model, PartlyFrozen
from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.frozen_base.adapters import standing_in
from penstock.run.config import TrainSettings
from penstock.train.activation_checkpointing import Checkpointed
from penstock.train.compiled import SETTING as COMPILE
from penstock.train.compiled import Compiled

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class LayerPasses:
    """What stands in for the forward of each layer; `changes` are applied in order, the first innermost."""

    layers: Sequence[nn.Module]
    changes: Sequence[Callable[[nn.Module, Forward], Forward]]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    @contextmanager
    def training(self) -> Iterator[None]:
        """Lasts as long as a pass; a pass without gradients is left alone."""
        with ExitStack() as stack:
            if torch.is_grad_enabled():
                stack.enter_context(self.around())
                for layer in self.layers:
                    forward: Forward = layer.forward
                    for change in self.changes:
                        forward = change(layer, forward)
                    stack.enter_context(standing_in(layer, forward))
            yield


def layer_passes(model: Model, train: TrainSettings) -> LayerPasses:
    """What the settings ask for; raises `ProblemError` for a model that cannot do it."""
    layers = layers_of(model, train)
    changes: list[Callable[[nn.Module, Forward], Forward]] = []
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    if train.compile_layers:
        changes.append(compiled := Compiled(layers))
        around = compiled.around
    if train.activation_checkpointing != "none":
        changes.append(Checkpointed.of(model, layers, selective=train.activation_checkpointing == "selective"))
    return LayerPasses(layers if changes else (), changes, around)


def layers_of(model: Model, train: TrainSettings) -> Sequence[nn.Module]:
    """The layers of a model; raises `ProblemError` if a setting needs them and the model does not name any."""
    layers = list(model.blocks()) if isinstance(model, Layered) else []
    problems = [] if layers else list(_without_layers(model, train))
    if train.compile_layers and isinstance(model, PartlyFrozen):
        what = f"{type(model).__name__} replaces parts of its layers in every pass, which cannot be compiled"
        problems.append(Problem("unsupported", what, COMPILE, "set it to false"))
    if problems:
        raise ProblemError(problems)
    return layers


def _without_layers(model: Model, train: TrainSettings) -> Iterator[Problem]:
    what = f"{type(model).__name__} does not name its layers"
    if train.activation_checkpointing != "none":
        fix = "set it to none, or use another architecture"
        yield Problem("unsupported", what, "train.activation_checkpointing", fix)
    if train.compile_layers:
        yield Problem("unsupported", what, COMPILE, "set it to false, or use another architecture")
