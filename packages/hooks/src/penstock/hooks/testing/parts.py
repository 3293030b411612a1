# pyright: basic
"""What laws of kinds that need torch hold components together with: small real parts, no mocks."""

from __future__ import annotations

import random
from typing import Any

import torch


def random_state() -> tuple[Any, bytes]:
    """The state of Python's and torch's global generators; equal states say that nothing was drawn between them."""
    return random.getstate(), torch.get_rng_state().numpy().tobytes()
