"""The dumbest runner of a task: one request at a time, every likelihood from the whole of what comes before.

Shape suffixes: S sequence, V vocabulary.
"""

# pyright: basic
# (torch is untyped here)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from penstock.hooks.contracts import (
    Answer,
    FollowingUp,
    Generate,
    GenerateAnswer,
    Likelihood,
    LikelihoodAnswer,
    Request,
    Rolling,
    RollingAnswer,
    Task,
    TaskContext,
    TaskResult,
)


def ask(task: Task, model: Any, context: TaskContext) -> TaskResult:
    """What the task makes of the model's answers, without intervals."""
    return task.total(scores_of(task, model, context), context)


def scores_of(task: Task, model: Any, context: TaskContext) -> dict[str, Any]:
    """One array a name, one number a sample."""
    samples = samples_of(task, model, context)
    return {name: np.array([sample[name] for sample in samples], dtype=np.float64) for name in samples[0]}


def samples_of(task: Task, model: Any, context: TaskContext) -> list[Mapping[str, float]]:
    samples: list[Mapping[str, float]] = []
    for item in list(task.items(context)):
        answers = answers_of(task.requests(item, context), model, context)
        if isinstance(task, FollowingUp):
            answers += answers_of(task.follow_ups(item, answers, context), model, context)
        samples += task.score(item, answers, context)
    return samples


@torch.no_grad()
def answers_of(requests: Sequence[Request], model: Any, context: TaskContext) -> list[Answer]:
    """The answers of a model that reads any length, in evaluation mode."""
    return [_answer(request, model, context) for request in requests]


def _answer(request: Request, model: Any, context: TaskContext) -> Answer:
    match request:
        case Rolling():
            nll_S, _ = _predictions(model, np.array(request.token_N, dtype=np.int64))
            return RollingAnswer(nll_S)
        case Likelihood():
            token_S = np.array([*request.context, *request.continuation], dtype=np.int64)
            nll_S, likeliest_S = _predictions(model, token_S)
            first = len(request.context) - 1
            return LikelihoodAnswer(float(nll_S[first:].sum()), bool(likeliest_S[first:].all()))
        case Generate():
            prompt_1S = torch.tensor([list(request.prompt)])
            sampling = {"temperature": request.temperature, "seed": request.seed}
            new = model.generate(prompt_1S, tokens=request.tokens, **sampling)[0, len(request.prompt) :].tolist()
            text = context.tokenizer.decode(new)
            end = min((text.find(stop) for stop in request.stop if stop in text), default=None)
            return GenerateAnswer(text[:end], new)


def _predictions(model: Any, token_S: Any) -> tuple[Any, Any]:
    """Nats of every token after the first, and whether it is the likeliest."""
    token_1S = torch.from_numpy(token_S)[None]
    logits_SV = model.logits(model(token_1S[:, :-1]).hidden_BSD)[0]
    target_S = token_1S[0, 1:]
    nll_S = torch.nn.functional.cross_entropy(logits_SV, target_S, reduction="none")
    return nll_S.double().numpy(), (logits_SV.argmax(dim=-1) == target_S).numpy()
