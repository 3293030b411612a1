"""Fuzzes the readers of every file format, or of some: `python tests/fuzz/run.py [--count 2000] [FORMAT ...]`.

Each format is read in a child process, so that a crash, a hang or a full memory is a finding like any other. Exit code
1 says that something came of a damaged file that is neither a sound value nor a `Problem`. A finding's number
repeats it: `python tests/fuzz/worker.py FORMAT NUMBER 1`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from formats import FORMATS

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Found:
    """Outcomes by name, and the failures among them in words."""

    outcomes: dict[str, int]
    failures: list[str]


def fuzz(names: Sequence[str], count: int, timeout: float = 3600) -> dict[str, Found]:
    """What came of the first `count` mutations of some formats, in one child process."""
    command = [sys.executable, str(HERE / "worker.py"), ",".join(names), "0", str(count)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace").splitlines()[-1:]
        return {names[0]: Found({"hang": 1}, [f"it hung at {said}"])}
    if child.returncode:
        last = " | ".join(line[-300:] for line in child.stderr.splitlines()[-5:])
        return {names[0]: Found({"crash": 1}, [f"it ended with {child.returncode}: {last}"])}
    return {name: Found(*found) for name, found in json.loads(child.stdout.splitlines()[-1]).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.formats or FORMATS:
        begun = time.perf_counter()
        (found,) = fuzz([name], arguments.count).values()
        seconds = time.perf_counter() - begun
        failed += len(found.failures)
        outcomes = ", ".join(f"{number} {what}" for what, number in sorted(found.outcomes.items()))
        print(f"{name:18} {outcomes} ({seconds:.0f} s)", *found.failures, sep="\n    ", flush=True)  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
