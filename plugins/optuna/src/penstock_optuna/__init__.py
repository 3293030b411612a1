"""Penstock's stop rules in Optuna: `RulePruner` for one objective, `StopCallback` for several."""

from penstock_optuna.callback import StopCallback
from penstock_optuna.pruner import RulePruner

__all__ = ["RulePruner", "StopCallback"]
