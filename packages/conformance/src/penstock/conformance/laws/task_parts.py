"""What tasks are tried on: a model that looks one token back and is known to the last digit, and tokenizers of bytes.

Shape suffixes: B batch, S sequence, V vocabulary.
"""

# pyright: basic
# (torch is untyped here)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penstock.conformance.asking import ask
from penstock.conformance.law import NotApplicable, Subject
from penstock.hooks.contracts import LossOutput, ModelOutput, ParameterRole, TaskContext

TASK = "task"
BYTES = 256
SEQUENCE = 32
TEXT = "".join(
    f"On day {day} the mill ground {day * 7 % 23} sacks, and the gate stood {'open' if day % 3 else 'shut'}.\n"
    for day in range(24)
)


class TableModel(nn.Module):
    """A `LanguageModel` whose next token depends on the one before alone: row t of the table is what follows t, in
    logits. In training mode, dropout makes it another one each time. `asked` counts the pairs that were scored."""

    def __init__(self, table_VV: Tensor) -> None:
        super().__init__()
        self.vocabulary_size = len(table_VV)
        self.table_VV = nn.Parameter(table_VV.clone())
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.asked_VV = np.zeros(table_VV.shape)

    @property
    def routers(self) -> Mapping[int, Any]:
        return {}

    def forward(self, token_BS: Tensor, *, cache: Any = None) -> ModelOutput:
        token_NS = token_BS.detach().cpu().numpy()
        np.add.at(self.asked_VV, (token_NS[:, :-1].ravel(), token_NS[:, 1:].ravel()), 1)
        return ModelOutput(self.dropout(nn.functional.embedding(token_BS, self.table_VV)), {})

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD.float()

    def next_token_loss(self, token_BS: Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        logits_BSV = self.logits(self(token_BS).hidden_BSD)
        nll_BS = nn.functional.cross_entropy(logits_BSV.transpose(1, 2), target_BS, reduction="none")
        if mask_BS is not None:
            nll_BS = torch.where(mask_BS, nll_BS, 0.0)
        return LossOutput(nll_BS.sum(), nll_BS.detach(), {})

    @torch.no_grad()
    def generate(self, token_BS: Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        for _ in range(tokens):
            next_B = self.logits(self(token_BS).hidden_BSD[:, -1]).argmax(dim=-1)
            token_BS = torch.cat((token_BS, next_B[:, None]), dim=1)
        return token_BS

    def parameter_roles(self) -> Mapping[str, ParameterRole]:
        return {"table_VV": ParameterRole.EMBEDDING}

    def export_config(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary_size}

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        return {"table": self.table_VV.detach().clone()}

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.table_VV.copy_(state["table"])


class ByteTokenizer:
    """Token b is byte b."""

    vocabulary_size = BYTES
    end_of_text = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Any) -> str:
        return bytes(int(token) for token in tokens).decode(errors="replace")

    def byte_lengths(self) -> Any:
        return np.ones(BYTES, dtype=np.int64)


def random_model() -> TableModel:
    """In evaluation mode; the same one each time."""
    draw = torch.Generator().manual_seed(0)
    return TableModel(torch.randn(BYTES, BYTES, generator=draw)).eval()


def evaluate(subject: Subject, task: Any, model: TableModel, context: TaskContext) -> Any:
    if subject.component.contract == 1:
        given = {"heldout": context.heldout, "sequence_length": context.sequence_length}
        return task.run(model, context.tokenizer, **given)
    return ask(task, model, context)


def result_of(subject: Subject, model: TableModel, *, task: Any = None, **changes: Any) -> Any:
    """What the task, a new one where none is given, finds of a model; `changes` are of its context."""
    with torch.enable_grad():  # ends what a task leaves switched off
        return evaluate(subject, task or subject.build(), model, a_context(**changes))


def metrics_of(subject: Subject, model: TableModel, **changes: Any) -> Mapping[str, float]:
    return result_of(subject, model, **changes).metrics


def a_context(**changes: Any) -> TaskContext:
    """It is short, so a task that puts examples before its questions may take as few as fit."""
    return replace(TaskContext(ByteTokenizer(), heldout_tokens(), SEQUENCE, fit_shots=True), **changes)


def require_contract(subject: Subject, version: int) -> None:
    if subject.component.contract != version:
        raise NotApplicable(f"a law of contract {version}; the task follows contract {subject.component.contract}")


def heldout_tokens() -> Any:
    return np.array(ByteTokenizer().encode(TEXT), dtype=np.int64)
