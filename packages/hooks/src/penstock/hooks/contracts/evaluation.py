"""What measures a model.

Shape suffixes: N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.hooks.contracts.data import Tokenizer
from penstock.hooks.contracts.model import LanguageModel
from penstock.hooks.contracts.tensors import Array


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Figures of one task. The convention is part of each metric's name; `details` holds what a report may show."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=lambda: dict[str, Any]())


class Task(Protocol):
    """Evaluates a model. `heldout` is the run's own held-out tokens (int array [N]), None where there are none."""

    def run(
        self, model: LanguageModel, tokenizer: Tokenizer, *, heldout: Array | None, sequence_length: int
    ) -> TaskResult: ...
