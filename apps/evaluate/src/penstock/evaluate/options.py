"""What the command line says about an evaluation, beside its tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

Dtype = Literal["fp32", "fp64", "bf16"]

FIT = "fit"


class Shots(click.ParamType):
    """A number of examples, or `fit`: as many as fit."""

    name = "N|fit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return value if value == FIT else click.IntRange(min=0).convert(value, param, ctx)


@dataclass(frozen=True, slots=True)
class Options:
    """`shots`, `limit`, `seed` and `data` are those of `TaskContext`, where `shots` may be `fit`. `sequence_length`,
    `dtype` and `batch_size` are None for what the model was trained with, or reads at most. With `batch_invariant`, no
    bit of an answer depends on order or batch size. Answers are kept in the
    folder `answers`; None: where the model keeps them, if anywhere. `samples` is a file to write every prompt, answer
    and score to, and `against` one of an earlier evaluation to compare with."""

    shots: int | str | None = None
    limit: int | None = None
    seed: int = 0
    data: Path | None = None
    sequence_length: int | None = None
    batch_size: int | None = None
    batch_invariant: bool | None = None
    dtype: Dtype | None = None
    answers: Path | None = None
    samples: Path | None = None
    against: Path | None = None

    def of_tasks(self) -> dict[str, Any]:
        """The arguments of `TaskContext`."""
        fit = self.shots == FIT
        own = {"limit": self.limit, "seed": self.seed, "data": self.data}
        return {"shots": None if fit else self.shots, "fit_shots": fit, **own}
