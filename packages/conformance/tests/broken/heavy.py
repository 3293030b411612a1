"""A schema in a module that imports torch."""

import torch

from penstock.hooks.config import Schema


class Settings(Schema):
    size: int = torch.tensor(2).item()  # pyright: ignore[reportAssignmentType]
    """How large."""
