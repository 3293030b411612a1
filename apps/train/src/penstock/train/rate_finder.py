"""Finds learning rates by a ramp: a few dozen steps in which the rate of one rule of the optimizer rises from far too
low to far too high.

Muon's matrices and AdamW's embeddings, heads, routers and norms have a ramp each, while the other rule keeps its rate.
The other rule lowers the loss, too, so each of the two has further steps with its own rate at the ramp's lowest.
Each of several seeds has its own initial weights and order of the data, so the spread of what they suggest says how
much the suggestion is worth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from penstock.hooks.problems import ProblemError
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.records.rates import FoundRate, FoundRates, RateCurve
from penstock.train.rate_curve import WIDEST, interval, ramp, suggested
from penstock.train.trial import trial

SEEDS = 3
STEPS = 100
LOWEST, HIGHEST = 1e-5, 1.0
BROKEN = 2.0
"""A ramp ends where its loss is so many times the first one."""


def find_rates(config: RunConfig, data: Path, *, seeds: int = SEEDS, steps: int = STEPS) -> FoundRates:
    """The rate of each rule of the config's optimizer, from new models that train on the prepared `data`. The ramps go
    from 1e-5 to 1. Nothing of this process or of a run is changed."""
    rules = rules_of(config, data)
    rates = [_found(config, data, rule, seeds, steps, alone=len(rules) == 1) for rule in rules]
    used = sum(len(curve.losses) + len(curve.at_rest) for rate in rates for curve in rate.curves)
    return FoundRates(config.name, used, used * config.tokens_per_step, rates)


def rules_of(config: RunConfig, data: Path) -> list[str]:
    """Rules of the optimizer's groups that have parameters; an optimizer that names none has one, called after it."""
    with trial(config, data, steps=1, seed=config.seed) as trainer:
        return list(dict.fromkeys(_rule(config, group) for group in trainer.engine.optimizer.param_groups))


def _rule(config: RunConfig, group: dict[str, object]) -> str:
    return str(group.get("rule", config.train.optimizer.entry.component.name))


def _found(config: RunConfig, data: Path, rule: str, seeds: int, steps: int, *, alone: bool) -> FoundRate:
    setting, now = _setting(config, rule)
    curves: list[RateCurve] = []
    for seed in range(config.seed, config.seed + seeds):
        messages.note(f"{rule}: ramp {len(curves) + 1} of {seeds}")
        rates = ramp(LOWEST, HIGHEST, steps)
        losses = list(_losses(config, data, rule, rates, now, seed))
        at_rest = [] if alone else list(_losses(config, data, rule, [LOWEST] * steps, now, seed))
        curves.append(RateCurve(seed, rates[: len(losses)], losses, suggested(rates, losses, at_rest), at_rest))
    return summed_up(rule, setting, now, curves, step=(HIGHEST / LOWEST) ** (1 / (steps - 1)))


def summed_up(rule: str, setting: str, now: float, curves: Sequence[RateCurve], step: float) -> FoundRate:
    """What the ramps of all seeds say together; `step` is the factor from one of their rates to the next."""
    suggestions = [curve.suggested for curve in curves if curve.suggested is not None]
    within = interval(suggestions, step)
    mean = math.exp(statistics.fmean(map(math.log, suggestions))) if suggestions else None
    low, high = within[1:] if within else (None, None)
    if low and high and high / low > WIDEST:
        mean = None
    return FoundRate(rule, setting, now, mean, low, high, list(curves))


def _setting(config: RunConfig, rule: str) -> tuple[str, float]:
    """What the optimizer calls the rule's rate, and what it is. The rate of `adamw` beside another rule is `adamw_lr`,
    which stands for `lr` while it is null."""
    settings = config.train.optimizer.settings
    beside = rule == "adamw" and "adamw_lr" in type(settings).model_fields
    own = getattr(settings, "adamw_lr", None) if beside else None
    return "adamw_lr" if beside else "lr", float(settings.lr if own is None else own)


def _losses(config: RunConfig, data: Path, rule: str, rates: Sequence[float], now: float, seed: int) -> Iterator[float]:
    """The loss before each step of the ramp, until it breaks. A role with a rate of its own keeps its ratio to the
    rule's."""
    with trial(config, data, steps=len(rates), seed=seed) as trainer:
        groups = [group for group in trainer.engine.optimizer.param_groups if _rule(config, group) == rule]
        ratios = [group["initial_lr"] / now if now else 1.0 for group in groups]
        first: float | None = None
        for rate in rates:
            for group, ratio in zip(groups, ratios, strict=True):
                group["initial_lr"] = rate * ratio
            try:
                loss = trainer.take_step()["loss"]
            except ProblemError:  # no longer finite
                return
            yield loss
            first = loss if first is None else first
            if loss > BROKEN * first:
                return
