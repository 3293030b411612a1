"""Damages the file of one format many times and reads it each time; prints what came of it as JSON.

    python tests/fuzz/worker.py FORMAT[,FORMAT...] FIRST COUNT

The process is the watchdog's: it may take little more memory than the whole file took, and few seconds a mutation.
"""

from __future__ import annotations

import collections
import json
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

from formats import FORMATS, Format

SEED = 20260101
SECONDS = 10
MEMORY = 3 << 30
SHOWN = 8


class TooSlowError(BaseException):
    pass


def mutated(name: str, number: int, data: bytes) -> tuple[str, bytes]:
    """Mutation `number` of a format: the name of what was done, and the file's content."""
    rng = random.Random(f"{SEED}:{name}:{number}")
    mutation = rng.choice(FORMATS[name].mutations)
    return mutation.__name__, mutation(rng, data)


def outcome(format: Format, path: Path, whole: Any) -> tuple[str, str]:
    """What came of reading the file: "as whole", "other value", "refused", or what must not be, with its cause."""
    from penstock.hooks.problems import ProblemError

    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        value = format.read(path)
    except ProblemError as error:
        plain = [problem for problem in error.problems if problem.what and (problem.where or problem.fix)]
        return ("refused", "") if plain else ("a problem without place or fix", str(error))
    except TooSlowError:
        return "too slow", f"more than {SECONDS} seconds"
    except BaseException as error:
        return "traceback", "".join(traceback.format_exception(error)[-3:])[-900:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if value == whole:
        return "as whole", ""
    try:
        format.sound(value)
    except AssertionError as error:
        return "wrong value", f"{error}: {str(value)[:200]} instead of {str(whole)[:200]}"
    return "other value", ""


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def too_slow(*_: Any) -> None:
    raise TooSlowError


def fuzz(name: str, first: int, count: int) -> tuple[dict[str, int], list[str]]:
    """Outcomes by name, and the first failures among them in words."""
    format = FORMATS[name]
    found: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        path = format.write(Path(folder))
        data = path.read_bytes()
        whole = format.read(path)
        limit_memory()
        for number in range(first, first + count):
            done, content = mutated(name, number, data)
            path.write_bytes(content)
            print(f"{name} {number} {done}", file=sys.stderr, flush=True)  # noqa: T201 (the last one, if the process dies)
            what, why = outcome(format, path, whole)
            found[what] += 1
            if what not in ("as whole", "other value", "refused") and len(failures) < SHOWN:
                failures.append(f"{name} {number} ({done}): {what}: {why}")
    return found, failures


def main(names: str, first: int, count: int) -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_slow)
    print(json.dumps({name: fuzz(name, first, count) for name in names.split(",")}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
