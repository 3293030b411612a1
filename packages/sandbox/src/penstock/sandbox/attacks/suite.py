"""All attacks, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from penstock.sandbox.attacks.attack import Attack
from penstock.sandbox.attacks.files import FILES
from penstock.sandbox.attacks.outside import Outside, Seen
from penstock.sandbox.attacks.processes import PROCESSES
from penstock.sandbox.attacks.resources import RESOURCES
from penstock.sandbox.attacks.system import SYSTEM
from penstock.sandbox.attacks.verdicts import VERDICTS

ATTACKS = (*FILES, *PROCESSES, *SYSTEM, *RESOURCES, *VERDICTS)
LASTS = 1.5


def effects_of(attack: Attack, outside: Outside, run: Callable[[str], Seen], *, seconds: float) -> list[str]:
    """What an attack does outside of the harness `run`, in words; nothing if it does not escape. `seconds` is what the
    harness may take for one program."""
    seen = run(outside.header() + attack.program)
    if attack.lasting:
        time.sleep(LASTS)
    found = outside.effects(seen, fails=attack.fails, seconds=seconds)
    if attack.then and "FOUND" in run(outside.header() + attack.then).text:
        found.append("the next program found what was left")
    return found


def escapes(run: Callable[[str], Seen], *, seconds: float, attacks: Sequence[Attack] = ATTACKS) -> dict[str, list[str]]:
    """The attacks that escape from a harness, and their effects."""
    outside = Outside()
    try:
        found = {attack.name: effects_of(attack, outside, run, seconds=seconds) for attack in attacks}
    finally:
        outside.close()
    return {name: effects for name, effects in found.items() if effects}
