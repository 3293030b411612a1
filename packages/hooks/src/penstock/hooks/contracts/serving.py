"""Exporting a model to other software."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from penstock.hooks.contracts.model import LanguageModel
from penstock.hooks.contracts.tensors import Tensor
from penstock.hooks.contracts.weights import SharingPlan, StoragePlan

Progress: TypeAlias = Callable[[int, int], None]
"""Told how much is done, and of how much."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A run's model, and what the run says of it.

    `state` are the parameters and buffers by their names in the model, without those that sharing and quantizers added;
    `storage` says how a parameter is stored, by its role, and `sharing` which names of `state` are one tensor.
    `architecture` is the id of the component that built the model from `config`, the run's config with every value
    resolved. `step`, `tokens` and `sha256` (of its manifest) are the checkpoint's. `files` are the run's by name:
    `tokenizer.json`, and those that find its data again.
    """

    model: LanguageModel
    state: Mapping[str, Tensor]
    storage: StoragePlan
    sharing: SharingPlan
    architecture: str
    config: Mapping[str, Any]
    step: int
    tokens: int | None
    sha256: str
    files: Mapping[str, Path]


class Exporter(Protocol):
    """Writes a model for other software and returns the files written: contract 1."""

    def export(self, model: LanguageModel, tokenizer_file: Path, folder: Path) -> list[Path]: ...


class RunExporter(Protocol):
    """Writes a model with what its run says of it, and returns the files written: contract 2.

    `suffix` ends the name of the one file that `path` is; empty: `path` is a folder. Raises `ProblemError` with nothing
    changed at `path` for what it cannot write, and for a `path` that holds what no export wrote.
    """

    suffix: str

    def export(self, trained: TrainedModel, path: Path, progress: Progress | None = None) -> list[Path]: ...
