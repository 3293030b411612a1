"""What a profile means for our own server."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.hooks.contracts.serving import Profile


@dataclass(frozen=True, slots=True)
class Tuning:
    """`slots` texts are computed at once, and a step reads at most `chunk` tokens of prompts."""

    slots: int
    chunk: int


TUNINGS: dict[Profile, Tuning] = {
    # Every running text waits for the prompts of a step, and each text in a step makes it longer.
    "latency": Tuning(slots=8, chunk=128),
    "balanced": Tuning(slots=32, chunk=512),
    "throughput": Tuning(slots=128, chunk=2048),
}
CONTEXT = 2048
"""Tokens of a text, prompt included, where the model reads that many."""
