"""Learning rates from another width: those that suit a config, carried over to one that differs in its hidden size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock.hooks.architecture import architecture_settings
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.config import RunConfig

RATES = ("lr", "adamw_lr", "role_lr")
"""Settings of optimizers that are learning rates."""


def override_at_width(base: RunConfig, config: RunConfig) -> str:
    """An override that gives `config` the rates of `base` as they suit its width: a pure function of both widths and of
    both optimizers. Imports no torch.

    Raises `ProblemError` if a width is unknown, if the optimizers differ, or if they have no rule for widths
    (`at_width`).
    """
    ours, theirs = config.train.optimizer.entry, base.train.optimizer.entry
    if ours.id != theirs.id:
        what = f"the rates of '{theirs.component.name}' say nothing about '{ours.component.name}'"
        raise ProblemError(Problem("unsupported", what, "train.optimizer", "give both the same optimizer"))
    settings = base.train.optimizer.settings
    if not hasattr(settings, "at_width"):
        what = f"the optimizer '{theirs.component.name}' does not say how its rates follow the width"
        raise ProblemError(Problem("unsupported", what, "train.optimizer", "use muon or adamw, or train at one rate"))
    wide = settings.at_width(_width(config) / _width(base)).model_dump(mode="json")
    return override_of_rates(config, {name: wide[name] for name in RATES if name in wide})


def override_of_rates(config: RunConfig, rates: Mapping[str, Any]) -> str:
    """An override of the whole optimizer with some of its rates replaced. A config that leaves the optimizer to its
    default takes no override of a part of it."""
    choice = config.train.optimizer
    written = {} if choice.settings is None else choice.settings.model_dump(mode="json", exclude_unset=True)
    return f"train.optimizer={json.dumps({'use': choice.entry.id, **written, **rates})}"


def _width(config: RunConfig) -> int:
    settings: Any = architecture_settings(config.model)
    width = getattr(settings, "hidden_size", None)
    if not width:
        what = f"the width of '{config.model.entry.component.name}' is not known"
        raise ProblemError(Problem("unsupported", what, "model", "use an architecture with hidden_size"))
    return width
