from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Models this small run faster on one thread."""
    torch.set_num_threads(1)
