"""A task: how often the likeliest token is the next one."""

from typing import Any

import torch

from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import LanguageModel, TaskResult, Tokenizer


class TokenAccuracy:
    def run(self, model: LanguageModel, tokenizer: Tokenizer, *, heldout: Any, sequence_length: int) -> TaskResult:
        window = torch.as_tensor(heldout[: sequence_length + 1].astype("int64"))[None]
        with torch.inference_mode():
            likeliest = model.logits(model(window[:, :-1]).hidden_BSD).argmax(dim=-1)
        return TaskResult({"accuracy": (likeliest == window[:, 1:]).float().mean().item()})


@hookimpl
def tasks() -> list[Component]:
    return [
        Component(
            kind="task", name="accuracy", target="token_accuracy:TokenAccuracy", summary="Of next tokens", contract=1
        )
    ]
