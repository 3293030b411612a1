"""Asks the same of a component in another process, where strings hash otherwise and nothing was imported or counted."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable

from penstock.conformance.law import expect
from penstock.hooks.registry import Choice

_CHILD = """
import sys
sys.path[:] = {path!r}
import pickle
ask, choice = pickle.load(sys.stdin.buffer)
sys.stdout.write("\\nanswer " + ask(choice))
"""


def told_by_another_process(ask: Callable[[Choice], str], choice: Choice) -> str:
    """What `ask`, a function of a module, returns there: one line. Raises `Violation` where it raises."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    result = subprocess.run(
        [sys.executable, "-c", _CHILD.format(path=sys.path)],
        input=pickle.dumps((ask, choice)),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    expect(result.returncode == 0, f"another process fails: {result.stderr.decode(errors='replace')[-300:]}")
    return result.stdout.decode().rpartition("\nanswer ")[2]
