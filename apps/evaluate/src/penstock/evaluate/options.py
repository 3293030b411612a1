"""What the command line says about an evaluation, beside its tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from penstock.hooks.contracts import ChatTemplate

Dtype = Literal["fp32", "fp64", "bf16"]

FIT = "fit"

HOW_ANSWERED = (
    "chat_template",
    "sequence_length",
    "batch_size",
    "batch_invariant",
    "dtype",
    "answers",
    "samples",
    "against",
)
"""Options of how one model answers, and what is kept of that."""


class Shots(click.ParamType):
    """A number of examples, or `fit`: as many as fit."""

    name = "N|fit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return value if value == FIT else click.IntRange(min=0).convert(value, param, ctx)


@dataclass(frozen=True, slots=True)
class Options:
    """`shots`, `limit`, `seed`, `data` and `sandbox` are those of `TaskContext`, where `shots` may be `fit`; with
    `unsafe_code_execution`, programs that the model wrote run without a sandbox.
    Questions go through `chat_template`: a file, or `own` for the model's. `sequence_length`, `dtype` and `batch_size`
    are None for what the model was trained with, or reads at most. With `batch_invariant`, no bit of an answer depends
    on order or batch size. Answers are kept in the folder `answers`; None: where the model keeps them, if anywhere.
    `samples` is a file to write every prompt, answer and score to, and `against` one of an earlier evaluation to
    compare with."""

    shots: int | str | None = None
    sandbox: Literal["full", "reduced"] = "full"
    unsafe_code_execution: bool = False
    limit: int | None = None
    seed: int = 0
    data: Path | None = None
    sequence_length: int | None = None
    chat_template: str | None = None
    shots_in_one_turn: bool = False
    batch_size: int | None = None
    batch_invariant: bool | None = None
    dtype: Dtype | None = None
    answers: Path | None = None
    samples: Path | None = None
    against: Path | None = None

    def chat(self, folder: Path | None, tokenizer_json: Callable[[], bytes]) -> ChatTemplate | None:
        """The template that questions go through; the model's own is in its `folder`."""
        if self.chat_template is None:
            return None
        from penstock.data_prep.chat_template import chat_template

        return chat_template(self.chat_template, folder, tokenizer_json(), shots_as_turns=not self.shots_in_one_turn)

    def of_tasks(self) -> dict[str, Any]:
        """The arguments of `TaskContext`."""
        fit = self.shots == FIT
        sandbox = "none" if self.unsafe_code_execution else self.sandbox
        own = {"sandbox": sandbox, "limit": self.limit, "seed": self.seed, "data": self.data}
        return {"shots": None if fit else self.shots, "fit_shots": fit, **own}
