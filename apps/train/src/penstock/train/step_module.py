"""The one module that an engine wraps and calls."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from penstock.hooks.contracts import Batch, LanguageModel, Objective, ObjectiveOutput, Routing
from penstock.train.inputs import what_is_read
from penstock.train.layers import LayerPasses


class StepModule(nn.Module):
    """A model and its objective (see `penstock.hooks.contracts.StepModule`).

    An engine that shards a module, or hooks into its forward, sees only the calls of that module: if a method of
    the model computed the loss outside it, each rank would silently train on its own.
    """

    def __init__(self, model: LanguageModel, objective: Objective, passes: LayerPasses | None = None) -> None:
        super().__init__()
        self.model = model  # a module, as every `LanguageModel` is
        self.objective = objective
        self.passes = passes or LayerPasses((), ())

    def forward(self, batch: Batch, *, routings_only: bool = False) -> ObjectiveOutput | Mapping[int, Routing]:
        with self.passes.training():
            if routings_only:
                return self.model(what_is_read(batch.inputs)).routings
            return self.objective.loss(self.model, batch)
