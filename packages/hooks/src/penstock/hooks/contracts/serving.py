"""Exporting a model to other software."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from penstock.hooks.contracts.model import LanguageModel


class Exporter(Protocol):
    """Writes a model for other software and returns the files written."""

    def export(self, model: LanguageModel, tokenizer_file: Path, folder: Path) -> list[Path]: ...
