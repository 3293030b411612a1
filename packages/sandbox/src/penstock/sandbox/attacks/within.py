"""Attacks on an executor that has no isolation of its own, run within a sandbox: its bait is laid out there."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from penstock.sandbox.attacks import outside
from penstock.sandbox.attacks.attack import Attack
from penstock.sandbox.attacks.suite import ATTACKS, LASTS, effects_of
from penstock.sandbox.sandbox import Sandbox

PLAIN = """
def run(program):
    begun = time.monotonic()
    command = [sys.executable, "-I", "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, timeout=5)
        passed, text = done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired:
        passed, text = False, ""
    return Seen(passed, text, time.monotonic() - begun)
"""
"""`python -I` in a process with a time limit."""

GENTLE = tuple(attack for attack in ATTACKS if attack.gentle)


def escapes_within(
    sandbox: Sandbox, executor: str, *, seconds: float, attacks: Sequence[Attack] = GENTLE
) -> dict[str, list[str]]:
    """The attacks that escape from the executor, and their effects. `executor` is source that defines
    `run(program) -> Seen`. The sandbox's programs need as many seconds as an attack and its executor take."""
    drivers = [_driver(attack, executor, seconds) for attack in attacks]
    verdicts = sandbox.run_all(drivers)
    return dict(_found(attacks, [verdict.output for verdict in verdicts]))


def _driver(attack: Attack, executor: str, seconds: float) -> str:
    """The program that lays out bait, runs the attack on the executor, and prints the effects."""
    return "\n".join(
        (
            inspect.getsource(outside),
            f"import json, types\nLASTS = {LASTS}",
            inspect.getsource(effects_of),
            executor,
            f"attack = types.SimpleNamespace(**{asdict(attack)!r})",
            "there = Outside(Path('bait').absolute())",
            f"print('\\n' + json.dumps(effects_of(attack, there, run, seconds={seconds})), flush=True)",
        )
    )


def _found(attacks: Sequence[Attack], outputs: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for attack, output in zip(attacks, outputs, strict=True):
        last = output.rstrip().rpartition("\n")[2]
        effects = json.loads(last) if last.startswith("[") else ["the harness was lost"]
        if effects:
            yield attack.name, effects
