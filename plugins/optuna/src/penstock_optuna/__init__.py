"""Penstock's stop rules in Optuna: `pruner.RulePruner` for one objective, `callback.StopCallback` for several."""
