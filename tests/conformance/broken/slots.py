"""A routing of which some slots do not compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.hooks.contracts import Routing


@dataclass(frozen=True)
class SlotRouting(Routing):
    """`kept_TK` bool, the slots whose expert computes; `dropped_TK` bool, those whose expert turned the token away."""

    kept_TK: Any = None
    dropped_TK: Any = None
