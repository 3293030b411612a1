"""The section `evaluate` of a run's config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from penstock.hooks.config import OfKind, Schema
from penstock.hooks.registry import Choice

TaskChoice: TypeAlias = Annotated[Choice, OfKind("task")]

HELDOUT: Any = {"use": "heldout"}
"""A component as a default: validated as if it had been written, so the value of the field is a `Choice`."""


SMALLEST_TEMPERATURE = 0.001  # logits divided by less may leave the range of fp32


class EvaluateSettings(Schema):
    """Settings of `penstock evaluate`."""

    tasks: list[TaskChoice] = [HELDOUT]
    """Tasks to run."""
    prompts: list[str] = ["def ", "import ", "class ", '"""Return ']
    """Prompts of the samples."""
    sample_tokens: int = Field(default=96, gt=0)
    """Tokens per sample."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature; 0 is greedy."""

    def misfits(self) -> Iterator[tuple[tuple[str], str]]:
        if 0 < self.temperature < SMALLEST_TEMPERATURE:
            yield ("temperature",), f"must be 0 (greedy) or at least {SMALLEST_TEMPERATURE}, not {self.temperature}"

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"tasks": []}  # the conformance kit knows no components of other distributions
