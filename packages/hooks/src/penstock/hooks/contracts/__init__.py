"""The types that cross columns. A plugin meets the rest of the house through these and nothing else.

Protocols say what is called; frozen dataclasses say what is passed. Every name can be imported from here; a module of
this folder holds one subject. Nothing here imports torch.
"""

from __future__ import annotations

from penstock.hooks.contracts.data import Corpus, Document, DocumentFilter, Tokenizer
from penstock.hooks.contracts.evaluation import (
    Answer,
    Generate,
    GenerateAnswer,
    Interval,
    Item,
    Likelihood,
    LikelihoodAnswer,
    Request,
    Rolling,
    RollingAnswer,
    Task,
    TaskContext,
    TaskResult,
    TaskV1,
)
from penstock.hooks.contracts.model import (
    Generative,
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
    AskingRouter,
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
from penstock.hooks.contracts.training import Observer, Schedule, StepRecord, Tracker

__all__ = [
    "Answer",
    "Array",
    "AskingRouter",
    "BalanceLoss",
    "Balancer",
    "BatchLoad",
    "Corpus",
    "Document",
    "DocumentFilter",
    "ExpertLoad",
    "Exporter",
    "Generate",
    "GenerateAnswer",
    "Generative",
    "Inputs",
    "Interval",
    "Item",
    "LanguageModel",
    "Likelihood",
    "LikelihoodAnswer",
    "LossOutput",
    "ModelOutput",
    "Observer",
    "OnlineRouter",
    "ParameterRole",
    "PartlyFrozen",
    "Placement",
    "PlainHead",
    "Quantizer",
    "Remembering",
    "ReplaceableRouter",
    "Request",
    "Rolling",
    "RollingAnswer",
    "Router",
    "RouterFactory",
    "Routing",
    "Schedule",
    "SharingPlan",
    "SharingStrategy",
    "StepRecord",
    "Task",
    "TaskContext",
    "TaskResult",
    "TaskV1",
    "Tensor",
    "Tokenizer",
    "Topology",
    "Tracker",
]
