"""Learning rates from another width: those that suit a config, carried over to one that differs in its hidden size."""

from __future__ import annotations

import json
from typing import Any

from penstock.hooks.architecture import architecture_settings
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.config import RunConfig


def overrides_at_width(base: RunConfig, config: RunConfig) -> tuple[str, ...]:
    """The rates of `base` as they suit the width of `config`, as overrides such as `train.optimizer.lr=0.0141`: a pure
    function of both widths and of the settings of the optimizer; none if the widths are equal. Imports no torch.

    Raises `ProblemError` if a width is unknown or the optimizer has no rule for it (`at_width`).
    """
    settings, ratio = base.train.optimizer.settings, _width(config) / _width(base)
    if not hasattr(settings, "at_width"):
        what = (
            f"the optimizer '{base.train.optimizer.entry.component.name}' does not say how its rates follow the width"
        )
        raise ProblemError(Problem("unsupported", what, "train.optimizer", "use muon or adamw, or train at one rate"))
    before, after = (each.model_dump(mode="json") for each in (settings, settings.at_width(ratio)))
    changed = {name: value for name, value in after.items() if value != before[name]}
    return tuple(f"train.optimizer.{name}={json.dumps(value)}" for name, value in changed.items())


def _width(config: RunConfig) -> int:
    settings: Any = architecture_settings(config.model)
    width = getattr(settings, "hidden_size", None)
    if not width:
        what = f"the width of '{config.model.entry.component.name}' is not known"
        raise ProblemError(Problem("unsupported", what, "model", "use an architecture with hidden_size"))
    return width
