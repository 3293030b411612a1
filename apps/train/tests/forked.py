"""Runs a script several times side by side, each in a process of its own, and pays for the imports once: the processes
are forks of one that has imported what they need and done nothing else. That one serves all tests of this process."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

_PARENT = """
import importlib, json, os, signal, sys, traceback
import torch.distributed, penstock.train.balancing, penstock.train.ranks
for line in sys.stdin:
    script, calls, modules, seconds = json.loads(line)
    for module in modules:
        importlib.import_module(module)
    children = []
    for arguments in calls:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(seconds)
            os.dup2(writer, 1)
            sys.argv = ["-c", *arguments]
            try:
                exec(script, {"__name__": "__main__"})
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(writer)
        children.append((child, os.fdopen(reader)))
    answers = []
    for child, reader in children:
        with reader:
            answers.append(reader.read())
        os.waitpid(child, 0)
    print(json.dumps(answers), flush=True)
"""


def side_by_side(
    script: str, calls: Sequence[Sequence[str]], *, modules: Sequence[str] = (), seconds: int = 240
) -> list[str]:
    """What each call of the script printed; `sys.argv[1:]` are the call's arguments. `modules` are imported before the
    script, once for all calls. A process that lives longer than so many seconds is killed."""
    parent = _parent()
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(json.dumps([script, calls, modules, seconds]) + "\n")
    parent.stdin.flush()
    return json.loads(parent.stdout.readline())


@cache
def _parent() -> subprocess.Popen[str]:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(parent.communicate)  # at the end of its input it ends
    return parent
