"""What a profile of serving means, in numbers that every server has a flag for."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.hooks.contracts.serving import Profile, Serving


@dataclass(frozen=True, slots=True)
class Tuning:
    """`slots` texts are computed at once, and a step reads at most `step_tokens` tokens of prompts."""

    slots: int
    step_tokens: int


TUNINGS: dict[Profile, Tuning] = {
    # A step makes every running text wait, and grows with the texts and the tokens of prompts in it.
    "latency": Tuning(slots=8, step_tokens=512),
    "balanced": Tuning(slots=32, step_tokens=2048),
    "throughput": Tuning(slots=256, step_tokens=8192),
}


def tuning_of(serving: Serving) -> Tuning:
    """The numbers of the profile, but for the slots that are given. A step has room for a token of each slot."""
    tuning = TUNINGS[serving.profile]
    slots = serving.slots or tuning.slots
    return Tuning(slots, max(slots, tuning.step_tokens))
