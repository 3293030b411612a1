"""Learning rates that suit a config: carried over from another width, or found by a ramp. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.config import RunConfig
from penstock.run.records.rates import FoundRates

RATES = ("lr", "adamw_lr", "role_lr")
"""Settings of optimizers that are learning rates."""


def override_at_width(config: RunConfig, width: int) -> str:
    """An override that gives the config its rates as they suit its hidden size, if they suit a model of hidden size
    `width`. Raises `ProblemError` if the model's is unknown, or if the optimizer has no rule for it (`at_width`)."""
    choice = config.train.optimizer
    if not hasattr(choice.settings, "at_width"):
        what = f"the optimizer '{choice.entry.component.name}' does not say how its rates follow the width"
        raise ProblemError(Problem("unsupported", what, "train.optimizer", "use muon or adamw, or train at one rate"))
    wide = choice.settings.at_width(width_of(config) / width).model_dump(mode="json")
    return override_of_rates(config, {name: wide[name] for name in RATES if name in wide})


def override_of_found(config: RunConfig, found: FoundRates) -> str | None:
    """An override that gives the config the rates that were found for it, to three digits; None if no ramp suggests
    one. A role with a rate of its own keeps its ratio to that of its rule, as in the ramps."""
    rates = {each.setting: float(f"{each.suggested:.3g}") for each in found.rates if each.suggested is not None}
    if not rates:
        return None
    ratios = {each.setting: rates.get(each.setting, each.now) / each.now for each in found.rates if each.now}
    settings = config.train.optimizer.settings
    own: Mapping[ParameterRole, float] = getattr(settings, "role_lr", None) or {}
    scaled = {role.value: rate * ratios.get(_setting_of(role, settings), 1.0) for role, rate in own.items()}
    return override_of_rates(config, {**rates, **({"role_lr": scaled} if scaled else {})})


def _setting_of(role: ParameterRole, settings: Any) -> str:
    """What the optimizer calls the rate of the rule that has this role."""
    muon = getattr(settings, "muon_roles", None)
    return "lr" if muon is None or role in muon else "adamw_lr"


def override_of_rates(config: RunConfig, rates: Mapping[str, Any]) -> str:
    """An override of the whole optimizer with some of its rates replaced. A config that leaves the optimizer to its
    default takes no override of a part of it."""
    choice = config.train.optimizer
    written = {} if choice.settings is None else choice.settings.model_dump(mode="json", exclude_unset=True)
    return f"train.optimizer={json.dumps({'use': choice.entry.id, **written, **rates})}"


def width_of(config: RunConfig) -> int:
    """The hidden size of the config's model. Raises `ProblemError` if it is unknown."""
    settings: Any = architecture_settings(config.model)
    width = getattr(settings, "hidden_size", None)
    if not width:
        what = f"the width of '{config.model.entry.component.name}' is not known"
        raise ProblemError(Problem("unsupported", what, "model", "use an architecture with hidden_size"))
    return width
