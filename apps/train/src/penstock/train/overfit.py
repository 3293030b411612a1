"""Trains on a few tokens again and again. A model that cannot learn even these by heart has something wrong with it.

When the loss stays, the causes that can be told apart are looked for, each with its evidence: tokens that are not
counted, parameters that are frozen or never move, fewer parameters than the tokens have bits, and a learning rate with
which it works.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penstock.data_prep.dataset import TokenDataset
from penstock.hooks.contracts import Batch, LanguageModel, Objective, ObjectiveOutput
from penstock.hooks.problems import ProblemError, failed
from penstock.run.config import RunConfig
from penstock.run.records.rates import Overfitted
from penstock.train.compose import parameter_summary, trained_parameters
from penstock.train.data import training_data
from penstock.train.heldout import read_batch
from penstock.train.inputs import moved
from penstock.train.trial import LocalTrainer, trial

NEAR_ZERO = 0.1
"""Nats a token: each is predicted with a probability of 0.9."""
STEPS = 400
LOOK_EVERY = 10  # steps
OTHER_RATES = (0.1, 10.0)
"""Factors on the learning rate that are tried when the configured one fails."""
BITS_A_PARAMETER = 2
"""That a language model learns by heart (Allen-Zhu and Li, arXiv 2404.05405)."""


class Repeated:
    """The first batch of an objective, at every step."""

    def __init__(self, objective: Objective, batches: Sequence[Batch]) -> None:
        self.objective, self.few = objective, batches

    def prepare(self, data: Any) -> None:
        """The objective is prepared already."""

    def fingerprint(self) -> Mapping[str, str]:
        return self.objective.fingerprint()

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        return self.few

    def loss(self, model: LanguageModel, batch: Batch) -> ObjectiveOutput:
        return self.objective.loss(model, batch)

    def heldout(self) -> Iterator[Batch]:
        yield from self.few


@dataclass(slots=True)
class Attempt:
    """The losses of one training, and what it did to the parameters. `still` names those that never moved; `moved`:
    any other did."""

    losses: list[float] = field(default_factory=lambda: list[float]())
    diverged: bool = False
    still: tuple[str, ...] = ()
    moved: bool = False
    frozen: int = 0
    trained: int = 0

    @property
    def steps(self) -> int:
        return LOOK_EVERY * (len(self.losses) - 1)

    @property
    def best(self) -> float:
        return min(self.losses)


def overfit(config: RunConfig, data: Path, tokens: int) -> Overfitted:
    """Trains a new model on the first `tokens` of the prepared `data` for at most `STEPS` steps, at a constant rate.
    Raises `ProblemError` if none of them is counted in the loss."""
    config = _few(config, tokens)
    batches = _first_batches(config, data)
    read, counted = sum(each.target_BS.numel() for each in batches), sum(each.units for each in batches)
    if not counted:
        what = f"none of the {read} tokens is counted in the loss, so nothing can be learnt"
        raise failed("nothing-counted", what, "train.objective", "check masks and labels")
    attempt = _attempt(config, data, batches)
    reached = attempt.best <= NEAR_ZERO
    first, best = attempt.losses[0], attempt.best
    result = Overfitted(read, counted, round(first, 4), round(best, 4), NEAR_ZERO, attempt.steps, reached)
    return result if reached else replace(result, findings=[*_findings(config, data, batches, attempt, result)])


def _few(config: RunConfig, tokens: int) -> RunConfig:
    """The config with a batch of so many tokens, in one piece."""
    length = min(config.data.sequence_length, tokens)
    size = max(1, tokens // length)
    train = config.train.model_copy(update={"batch_size": size, "micro_batch_size": None})
    return config.model_copy(
        update={"data": config.data.model_copy(update={"sequence_length": length}), "train": train}
    )


def _first_batches(config: RunConfig, data: Path) -> Sequence[Batch]:
    objective = config.train.objective.build()
    objective.prepare(training_data(config, TokenDataset.open(data, verify=False)))
    return objective.batches(0, rank=0, ranks=1, parts=1)


def _attempt(config: RunConfig, data: Path, batches: Sequence[Batch], factor: float = 1.0) -> Attempt:
    attempt = Attempt()
    objective = Repeated(config.train.objective.build(), batches)
    with trial(config, data, steps=STEPS, seed=config.seed, objective=objective) as trainer:
        for group in trainer.engine.optimizer.param_groups:
            group["initial_lr"] *= factor
        trained = trained_parameters(trainer.composition.module)
        before = {name: each.detach().clone() for name, each in trained.items()}
        attempt.trained = sum(each.numel() for each in trained.values())
        attempt.frozen = parameter_summary(trainer.composition).total - attempt.trained
        attempt.losses.append(_loss(trainer, batches))
        try:
            while trainer.step < STEPS and attempt.losses[-1] > NEAR_ZERO:
                for _ in range(LOOK_EVERY):
                    trainer.take_step()
                attempt.losses.append(_loss(trainer, batches))
        except ProblemError:
            attempt.diverged = True
        attempt.still = tuple(name for name, each in trained.items() if _same(each, before[name]))
        attempt.moved = len(attempt.still) < len(trained)
    return attempt


def _loss(trainer: LocalTrainer, batches: Sequence[Batch]) -> float:
    """In nats a counted token, without dropout."""
    read = [read_batch(trainer.engine.evaluate(moved(batch, trainer.engine.device)))[0] for batch in batches]
    return math.fsum(read) / sum(batch.units for batch in batches)


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one.detach(), other))


def _findings(
    config: RunConfig, data: Path, batches: Sequence[Batch], attempt: Attempt, result: Overfitted
) -> Iterator[str]:
    """What may be wrong, the most telling first."""
    if result.counted < result.tokens / 2:
        yield f"masks: {result.counted} of {result.tokens} tokens are counted in the loss; the others teach nothing"
    if not attempt.trained:
        yield "frozen: no parameter trains"
        return
    if attempt.frozen > attempt.trained:
        share = attempt.frozen / (attempt.frozen + attempt.trained)
        yield f"frozen: {share:.0%} of the parameters do not train ({attempt.frozen:,} of them)"
    if attempt.still:
        names = ", ".join(attempt.still[:4]) + (", ..." if len(attempt.still) > 4 else "")
        yield f"no gradient: {len(attempt.still)} parameters that train never moved ({names}); is train.optimizer.lr 0?"
    vocabulary = TokenDataset.open(data, verify=False).manifest.vocabulary_size
    bits = result.counted * math.log2(vocabulary)
    if bits > BITS_A_PARAMETER * attempt.trained:
        yield (
            f"size: {result.counted} tokens of a vocabulary of {vocabulary:,} have {bits:,.0f} bits, and "
            f"{attempt.trained:,} parameters learn some {BITS_A_PARAMETER * attempt.trained:,} by heart"
        )
        return  # no rate changes that
    if not attempt.moved:
        return  # a multiple of a rate of 0 is 0
    found = list(_rates(config, data, batches, attempt))
    yield from found or [_unexplained(attempt)]


def _rates(config: RunConfig, data: Path, batches: Sequence[Batch], attempt: Attempt) -> Iterator[str]:
    """What another learning rate does to the loss."""
    for factor in OTHER_RATES:
        other = _attempt(config, data, batches, factor)
        way = "high" if factor < 1 else "low"
        if other.best <= NEAR_ZERO:
            yield f"learning rate: too {way}; at {factor:g} times the rate the loss falls to {other.best:.3f}"
        elif other.best < 0.5 * attempt.best:
            yield (
                f"learning rate: perhaps too {way}; at {factor:g} times the rate the loss falls to {other.best:.3f} "
                f"instead of {attempt.best:.3f}"
            )


def _unexplained(attempt: Attempt) -> str:
    if attempt.diverged:
        return f"the training diverged after {attempt.steps} steps, and so it does at a tenth of the rate"
    if attempt.losses[-1] < 0.9 * attempt.losses[len(attempt.losses) // 2]:
        return f"the loss still fell after {attempt.steps} steps: the model may be slow rather than broken"
    return "the loss stands still at every rate that was tried: look at the labels, and at what the model reads"
