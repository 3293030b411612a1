"""Schemas of broken components whose own modules import torch."""

from __future__ import annotations

from penstock.hooks.config import Schema


class OptimizerSettings(Schema):
    lr: float = 0.05
    """Learning rate."""
    weight_decay: float = 0.1
    """Decay of matrices."""
