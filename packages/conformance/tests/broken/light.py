"""Schemas of broken components whose own modules import torch."""

from __future__ import annotations

from penstock.hooks.architecture import ArchitectureSettings as BaseSettings
from penstock.hooks.config import Schema


class OptimizerSettings(Schema):
    lr: float = 0.05
    """Learning rate."""
    weight_decay: float = 0.1
    """Decay of matrices."""


class ArchitectureSettings(BaseSettings):
    preset: str | None = None
    """Sizes to start from."""
    width: int = 8
    """Model width."""

    @classmethod
    def presets(cls) -> dict[str, dict[str, int]]:
        return {"wide": {"width": 16}}


class ModelSettings(BaseSettings):
    @property
    def expert_layers(self) -> tuple[int, ...]:
        return (0,)
