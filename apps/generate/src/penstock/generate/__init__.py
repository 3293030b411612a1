"""Text from trained models: `load` in Python, and the commands `generate` and `chat`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.generate.model import TextModel


def load(path: str | Path) -> TextModel:
    """The model of a run, of one of its checkpoints, of an artifact (`model.penstock`), or of a folder in the Hugging
    Face layout, ready to generate.

    `runs/quickstart`, the folder of all runs of a config, means its newest run with a checkpoint. Raises
    `ProblemError` if there is no model at `path` or it cannot be loaded.
    """
    from penstock.generate.opening import open_model
    from penstock.hooks.registry import Registry

    return open_model(Path(path), Registry.discover())
