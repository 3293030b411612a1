"""What is left where the main process is killed: nothing."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.hooks.problems import ProblemError
from penstock.sandbox.cgroups import PREFIX
from penstock.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")

MAIN = """
import os, sys, time
from penstock.sandbox.sandbox import Sandbox
from penstock.sandbox.verdict import Limits
sandbox = Sandbox(sys.argv[1], limits=Limits(seconds=60.0), workers=2)
holder = os.fork() if sys.argv[2] == "held" else -1
if holder == 0:
    time.sleep(60)
    os._exit(0)
print(holder, flush=True)
program = '''
import os, time
try:
    os.fork()
except OSError:
    pass
time.sleep(300)
'''
list(sandbox.run_all([program] * 2))
"""


def living() -> dict[int, int]:
    """The parent of each process that has not ended."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def descendants(main: int) -> set[int]:
    parents, found = living(), {main}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {main}


def groups(main: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob(f"{PREFIX}{main}-*"))


@pytest.mark.parametrize("how", ["alone", "held"], ids=["alone", "while a forked process holds its files"])
@pytest.mark.parametrize("level", ["full", "reduced", "none"])
def test_all_ends_with_the_main_process(level, how: str) -> None:
    try:
        Sandbox(level).close()
    except ProblemError as error:
        pytest.skip(str(error))
    main = subprocess.Popen([sys.executable, "-c", MAIN, level, how], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    holder = int(main.stdout.readline())
    time.sleep(0.5)
    started = descendants(main.pid) - {holder}
    main.kill()
    main.wait()
    deadline = time.monotonic() + 10
    while (left := started & living().keys()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if holder > 0:
        os.kill(holder, 9)
    assert (len(started) >= 4, left) == (True, set())
    Sandbox(level).close()
    assert groups(main.pid) == []
