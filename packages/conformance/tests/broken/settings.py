"""Schemas of broken components whose modules import torch, which the module of a schema may not."""

from __future__ import annotations

from penstock.hooks.config import Schema


class RouterSettings(Schema):
    k: int = 2
    """Experts a token."""


class LossSettings(Schema):
    weight: float = 0.01
    """Factor on the loss."""
