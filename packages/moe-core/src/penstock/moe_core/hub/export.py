"""Why no class of transformers computes what a model does, where the reason is the same for every architecture. Imports
no torch."""

from __future__ import annotations

from penstock.hooks.architecture import StorageSettings
from penstock.hooks.problems import Problem
from penstock.hooks.registry import Choice

# A model trained with `activations: int8` computes something else with whole ones.
ROUNDED_INPUTS = Problem(
    "not-exportable",
    "no transformers class rounds activations to int8",
    "model.quantizer",
    "train without `activations`",
)
SUB_NORM = Problem(
    "not-exportable",
    "no transformers class has a norm before output and down projections",
    "model",
    "set sub_norm to false",
)

# The field of a factorised embedding in a `config.json` of our own; no class of transformers has one.
RANK = "embedding_rank"


def not_published(what: str) -> Problem:
    """The problem of a model with a part that sharing added, such as "a vector added to the input of a block"."""
    return Problem("not-exportable", f"no transformers class has {what}", "model.sharing", "leave it out of `per_use`")


def rounded_inputs(storage: Choice | StorageSettings | None) -> list[Problem]:
    """A problem if a quantizer's settings say that it rounds activations."""
    choices = list(storage.by_role().values()) if isinstance(storage, StorageSettings) else [storage]
    rounds = any(getattr(choice.settings, "activations", None) for choice in choices if choice is not None)
    return [ROUNDED_INPUTS] if rounds else []
