"""The types that cross columns. A plugin meets the rest of the house through these and nothing else.

Protocols say what is called; frozen dataclasses say what is passed. Every name can be imported from here; a module of
this folder holds one subject. Nothing here imports torch.
"""

from __future__ import annotations

from penstock.hooks.contracts.data import Corpus, Document, DocumentFilter, Tokenizer, TokenSource
from penstock.hooks.contracts.evaluation import Task, TaskResult
from penstock.hooks.contracts.model import (
    Inputs,
    LanguageModel,
    LossOutput,
    ModelOutput,
    ParameterRole,
    PartlyFrozen,
    PlainHead,
    Quantizer,
    Remembering,
    SharingPlan,
    SharingStrategy,
)
from penstock.hooks.contracts.network import Placement, Topology
from penstock.hooks.contracts.routing import (
    BalanceLoss,
    Balancer,
    BatchLoad,
    ExpertLoad,
    OnlineRouter,
    ReplaceableRouter,
    Router,
    RouterFactory,
    Routing,
)
from penstock.hooks.contracts.serving import Exporter
from penstock.hooks.contracts.tensors import Array, Tensor
from penstock.hooks.contracts.training import (
    Batch,
    Engine,
    Objective,
    ObjectiveOutput,
    Observer,
    Schedule,
    StepModule,
    StepRecord,
    Tracker,
    TrainingData,
)

__all__ = [
    "Array",
    "BalanceLoss",
    "Balancer",
    "Batch",
    "BatchLoad",
    "Corpus",
    "Document",
    "DocumentFilter",
    "Engine",
    "ExpertLoad",
    "Exporter",
    "Inputs",
    "LanguageModel",
    "LossOutput",
    "ModelOutput",
    "Objective",
    "ObjectiveOutput",
    "Observer",
    "OnlineRouter",
    "ParameterRole",
    "PartlyFrozen",
    "Placement",
    "PlainHead",
    "Quantizer",
    "Remembering",
    "ReplaceableRouter",
    "Router",
    "RouterFactory",
    "Routing",
    "Schedule",
    "SharingPlan",
    "SharingStrategy",
    "StepModule",
    "StepRecord",
    "Task",
    "TaskResult",
    "Tensor",
    "TokenSource",
    "Tokenizer",
    "Topology",
    "Tracker",
    "TrainingData",
]
