"""Tasks of contract 1 that break one law each."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from broken.described import described
from penstock.hooks import Problem, ProblemError
from penstock.hooks.contracts import TaskResult


class Good:
    """Bits per byte of the held-out tokens, in disjoint windows."""

    def run(self, model: Any, tokenizer: Any, *, heldout: Any, sequence_length: int) -> Any:
        if heldout is None or len(heldout) < 2:
            raise ProblemError(Problem("no-heldout", "the run has no held-out tokens"))
        mode = model.training
        self.set_mode(model, False)
        try:
            nll = self.total(model, self.tokens(heldout), sequence_length) / (len(heldout) - 1)
        finally:
            self.set_mode(model, mode)
        return self.result({"broken.bits_per_byte": nll / math.log(2), "broken.token_perplexity": math.exp(nll)})

    def total(self, model: Any, tokens: torch.Tensor, sequence_length: int) -> float:
        starts = range(0, len(tokens) - 1, sequence_length)
        return sum(self.nll(model, tokens[start : start + sequence_length + 1]) for start in starts)

    @torch.inference_mode()
    def nll(self, model: Any, window: torch.Tensor) -> float:
        return model.next_token_loss(window[None, :-1], window[None, 1:]).loss.item()

    def tokens(self, heldout: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(heldout, dtype=np.int64))

    def set_mode(self, model: Any, training: bool) -> None:
        model.train(training)

    def result(self, metrics: dict[str, Any]) -> Any:
        return TaskResult(metrics, {"windows": 1})


class Dictionary(Good):
    def result(self, metrics: dict[str, Any]) -> Any:
        return metrics


class Undefined(Good):
    def result(self, metrics: dict[str, Any]) -> Any:
        return super().result({**metrics, "broken.recall": math.nan})


class Pathological(Good):
    def result(self, metrics: dict[str, Any]) -> Any:
        return TaskResult(metrics, {"report": Path("report.html")})


class Ranking(Good):
    """Adds the number of the run, which is another one each time."""

    runs = itertools.count()

    def result(self, metrics: dict[str, Any]) -> Any:
        return super().result({**metrics, "broken.number": float(next(self.runs))})


class Rounding(Good):
    def set_mode(self, model: Any, training: bool) -> None:
        super().set_mode(model, training)
        model.steps += 1


class Backward(Good):
    def nll(self, model: Any, window: torch.Tensor) -> float:
        loss = model.next_token_loss(window[None, :-1], window[None, 1:]).loss
        loss.backward()
        return loss.item()


class LeftInEvaluation(Good):
    def set_mode(self, model: Any, training: bool) -> None:
        model.eval()


class Dropping(Good):
    """Leaves the model in the mode in which it came."""

    def set_mode(self, model: Any, training: bool) -> None:
        pass


class Seeding(Good):
    def tokens(self, heldout: Any) -> torch.Tensor:
        torch.manual_seed(0)
        torch.rand(1)
        return super().tokens(heldout)


class GradientsOff(Good):
    def tokens(self, heldout: Any) -> torch.Tensor:
        torch.set_grad_enabled(False)
        return super().tokens(heldout)


class Direct(Good):
    def tokens(self, heldout: Any) -> torch.Tensor:
        if heldout.dtype != np.int64:
            raise RuntimeError("indices must be int64")
        return super().tokens(heldout)


class Masking(Good):
    def tokens(self, heldout: Any) -> torch.Tensor:
        tokens = super().tokens(heldout)
        if heldout.flags.writeable:
            heldout[0] = 0
        return tokens


class Needy(Good):
    def run(self, model: Any, tokenizer: Any, *, heldout: Any, sequence_length: int) -> Any:
        if heldout is None:
            raise TypeError("object of type 'NoneType' has no len()")
        return super().run(model, tokenizer, heldout=heldout, sequence_length=sequence_length)


class Nats(Good):
    def result(self, metrics: dict[str, Any]) -> Any:
        name = "broken.bits_per_byte"
        return super().result({**metrics, name: metrics[name] * math.log(2)})


class Itself(Good):
    """Asks for the token that the model has just read."""

    @torch.inference_mode()
    def nll(self, model: Any, window: torch.Tensor) -> float:
        return model.next_token_loss(window[None, 1:], window[None, :-1]).loss.item()


class Gaps(Good):
    """Scores no token that begins a window."""

    def total(self, model: Any, tokens: torch.Tensor, sequence_length: int) -> float:
        starts = range(0, len(tokens) - 1, sequence_length)
        windows = [tokens[start : start + sequence_length] for start in starts]
        scored = sum(len(window) - 1 for window in windows)
        return sum(self.nll(model, window) for window in windows) * (len(tokens) - 1) / scored


of = partial(described("task", "A task that breaks one law", frozenset({"every-token"})), contract=1)
GOOD = of(Good)
BROKEN = {
    "task/the-result-is-a-task-result": of(Dictionary),
    "task/metrics-are-finite-floats": of(Undefined),
    "task/details-can-be-written": of(Pathological),
    "task/the-same-model-has-the-same-metrics": of(Ranking),
    "task/the-model-keeps-its-weights": of(Rounding),
    "task/no-gradient-is-left": of(Backward),
    "task/the-model-keeps-its-mode": of(LeftInEvaluation),
    "task/dropout-is-off": of(Dropping),
    "task/no-global-random-numbers-are-drawn": of(Seeding),
    "task/torch-keeps-its-settings": of(GradientsOff),
    "task/tokens-of-any-type-are-read": of(Direct),
    "task/heldout-tokens-are-left-alone": of(Masking),
    "task/nothing-held-out-is-answered-or-refused": of(Needy),
    "task/a-uniform-model-has-the-figures-of-its-vocabulary": of(Nats),
    "task/a-model-that-knows-the-text-scores-better": of(Itself),
    "task/the-sequence-length-moves-no-token": of(Gaps),
}
