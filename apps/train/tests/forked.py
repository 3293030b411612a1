"""Runs a script several times side by side, each in a process of its own, and pays for the imports once: the processes
are forks of one that has imported what they need and done nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

_PARENT = """
import json, os, sys, traceback
import torch.distributed, penstock.train.balancing, penstock.train.ranks
script, calls = json.load(sys.stdin)
readers = []
for arguments in calls:
    reader, writer = os.pipe()
    if os.fork() == 0:
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
    readers.append(reader)
print(json.dumps([os.fdopen(reader).read() for reader in readers]))
"""


def side_by_side(script: str, calls: Sequence[Sequence[str]], timeout: float = 240) -> list[str]:
    """What each call of the script printed; `sys.argv[1:]` are the call's arguments."""
    parent = subprocess.run(
        [sys.executable, "-c", _PARENT],
        input=json.dumps([script, calls]),
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=True,
    )
    return json.loads(parent.stdout)
