"""The random states that a whole process shares: whoever draws from them changes what everyone else draws."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock.conformance.law import expect

_SEED = 20_011  # one that no component seeds with: a state that it always leaves would be taken for untouched


def leaves_the_random_state(act: Callable[[], object]) -> None:
    """Raises `Violation` where `act` draws from, or seeds, Python's or numpy's global generator."""
    kept = _states()
    random.seed(_SEED)
    np.random.seed(_SEED)
    try:
        before = _comparable()
        act()
        after = _comparable()
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
    moved = [name for name, state in after.items() if state != before[name]]
    expect(not moved, f"the global state of {' and '.join(moved)} has changed")


def _states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _comparable() -> dict[str, Any]:
    of_python, (_, key, *place) = _states()
    return {"random": of_python, "numpy.random": (key.tolist(), place)}
