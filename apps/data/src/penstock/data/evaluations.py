"""`penstock data evaluations`: the texts of tasks, for the stage `decontaminate`.

A task says what it asks as token ids. Here a token is a byte, so any task gives its text, whoever wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.hooks.atomic import replacing
from penstock.hooks.contracts import Generate, Likelihood, Rolling, TaskContext
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, names_of


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    vocabulary_size, end_of_text = 257, 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")

    def byte_lengths(self) -> np.ndarray:
        return np.array([1] * 256 + [0])


def write_evaluations(choices: Sequence[Choice], data: Path | None, out: Path) -> dict[str, int]:
    """Writes the texts of each task to a file of JSON lines in `out`; returns how many each has. Raises `ProblemError`
    for a task without texts of its own, such as the held-out text of a run."""
    for choice in choices:
        if choice.entry.component.contract == 1:
            what, fix = "asks its questions itself, so its texts are not known", "leave it out"
            raise ProblemError(Problem("unknown-texts", what, choice.entry.id, fix))
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, int] = {}
    for name, choice in zip(names_of(choices), choices, strict=True):
        texts = dict.fromkeys(texts_of(choice.build(), data))
        with replacing(out / f"{name}.jsonl") as file:
            for text in texts:
                file.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
        found[name] = len(texts)
    return found


def texts_of(task: Any, data: Path | None) -> Iterator[str]:
    """What a task asks, a text for each of its requests, without examples before the questions; the right answer of a
    question that a model continues follows it."""
    tokenizer = Bytes()
    context = TaskContext(tokenizer, None, sequence_length=1 << 30, shots=0, data=data)
    for item in task.items(context):
        for request in task.requests(item, context):
            if isinstance(request, Likelihood):
                yield tokenizer.decode([*request.context, *request.continuation])
            elif isinstance(request, Rolling):
                yield tokenizer.decode(request.token_N.tolist())
            elif isinstance(request, Generate):
                yield tokenizer.decode(request.prompt) + (item.gold if isinstance(item.gold, str) else "")
