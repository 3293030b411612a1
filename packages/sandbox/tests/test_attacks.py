"""The attack suite: nothing escapes from the sandbox, and it can see what escapes from others."""

import sys
from collections.abc import Callable, Sequence

import pytest

from penstock.hooks.problems import ProblemError
from penstock.sandbox.attacks.attack import Attack
from penstock.sandbox.attacks.files import FILES
from penstock.sandbox.attacks.outside import Outside, Seen
from penstock.sandbox.attacks.processes import PROCESSES
from penstock.sandbox.attacks.suite import ATTACKS, escapes
from penstock.sandbox.attacks.system import SYSTEM
from penstock.sandbox.attacks.verdicts import SEARCH, VERDICTS
from penstock.sandbox.attacks.within import PLAIN, escapes_within
from penstock.sandbox.sandbox import Sandbox
from penstock.sandbox.verdict import Level, Limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")
SLOW = 60.0


def opened(level: Level, limits: Limits) -> Sandbox:
    try:
        return Sandbox(level, limits=limits)
    except ProblemError as error:
        pytest.skip(str(error))


def harness(sandbox: Sandbox) -> Callable[[str], Seen]:
    def run(program: str) -> Seen:
        verdict = sandbox.run(program)
        return Seen(verdict.passed, verdict.reason + verdict.output, verdict.seconds)

    return run


@pytest.mark.parametrize(
    ("level", "attacks"), [("full", ATTACKS), ("reduced", (*FILES[::3], *PROCESSES[::3], *SYSTEM[::3], *VERDICTS))]
)
def test_no_attack_escapes(level: Level, attacks: Sequence[Attack]) -> None:
    """`tests/benchmarks/sandbox.py` runs all of them at level reduced too."""
    with opened(level, Limits(seconds=0.5)) as sandbox:
        assert escapes(harness(sandbox), seconds=SLOW, attacks=attacks) == {}


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 40


@pytest.mark.parametrize("level", ["full", "reduced"])
def test_the_search_of_memory_finds_what_is_there(level: Level) -> None:
    outside = Outside()
    with opened(level, Limits(seconds=20.0)) as sandbox:
        there = sandbox.run(outside.header() + "kept = ['LEFT' + 'BEHIND' * 20]" + SEARCH)
        not_there = sandbox.run(outside.header() + SEARCH)
    outside.close()
    assert (there.output, not_there.output, not_there.outcome) == ("FOUND\n", "", "passed")


def test_the_suite_sees_what_escapes_from_a_plain_process() -> None:
    names = {
        "write a new file": ["new was changed"],
        "read a secret": ["a secret was told"],
        "stop a process": ["the process outside was ended, stopped or changed"],
        "leave a daemon": ["late was changed"],
        "read its own environment": ["a secret was told"],
        "exit": ["a failing program passed"],
    }
    chosen = [attack for attack in ATTACKS if attack.name in names]
    with opened("full", Limits(seconds=30.0)) as sandbox:
        assert escapes_within(sandbox, PLAIN, seconds=SLOW, attacks=chosen) == names
