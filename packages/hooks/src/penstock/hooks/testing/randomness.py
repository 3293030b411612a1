"""The random states that a whole process shares: whoever draws from them changes what everyone else draws."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock.hooks.testing.law import expect


def leaves_the_random_state(act: Callable[[], object]) -> None:
    """Raises `Violation` where `act` draws from, or seeds, Python's or numpy's global generator."""
    before = _states()
    act()
    moved = [name for name, state in _states().items() if state != before[name]]
    expect(not moved, f"the global state of {' and '.join(moved)} has changed")


def _states() -> dict[str, Any]:
    of_numpy: Any = np.random.get_state(legacy=False)
    return {"random": random.getstate(), "numpy.random": repr((of_numpy["state"]["key"].tobytes(), of_numpy))}
