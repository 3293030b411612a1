"""Local workers stay warm, keep to their cores, are replaced when they die, and never outlive their launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from penstock.hooks import Registry
from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.problems import ProblemError
from penstock.run.launchers.local import LocalLauncher

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def launcher(folder: Path, workers: int | None = 2, threads: int = 1, pin: bool = True) -> LocalLauncher:
    return LocalLauncher(workers, threads, pin, folder)


def run(launcher: LocalLauncher, function: str, arguments: list[dict[str, Any]]) -> dict[str, Outcome]:
    jobs = [Job(str(number), argument) for number, argument in enumerate(arguments)]
    outcomes = list(launcher.run(f"jobs:{function}", jobs))
    assert sorted(outcome.name for outcome in outcomes) == sorted(job.name for job in jobs)
    return {outcome.name: outcome for outcome in outcomes}


def value(outcome: Outcome) -> dict[str, Any]:
    assert outcome.state == "done", outcome.reason
    return outcome.value or {}


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_two_workers_share_the_jobs_and_stay_for_all_of_them(tmp_path: Path) -> None:
    found = run(launcher(tmp_path), "where", [{"seconds": 0.1} for _ in range(6)])
    values = [value(outcome) for outcome in found.values()]
    assert len({each["pid"] for each in values}) == 2
    assert sum(each["calls"] == 1 for each in values) == 2
    assert {each["threads"] for each in values} == {"1"}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no process")
def test_workers_have_cores_of_their_own_if_there_are_enough(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    pinned = [launcher(tmp_path, len(cores)).cores_of(number) for number in range(len(cores))]
    assert pinned == [[core] for core in cores]
    found = run(launcher(tmp_path, 1), "where", [{}])
    assert value(found["0"])["cores"] == cores[:1]
    for free in (launcher(tmp_path, len(cores) + 1), launcher(tmp_path, 1, pin=False)):
        assert free.cores_of(0) == []
    assert launcher(tmp_path, None, threads=len(cores)).workers == 1


@pytest.mark.parametrize(
    ("how", "state", "reason"),
    [
        ("bug", "failed", "ValueError: no such shape"),
        ("problem", "failed", "the loss is not a number"),
        ("memory", "failed", "MemoryError"),
        ("sys.exit", "failed", "SystemExit: 4"),
        ("no JSON", "failed", "TypeError: Object of type set is not JSON serializable"),
        ("exit", "lost", "the worker ended with exit code 3"),
        ("kill", "lost", "the worker was killed by SIGKILL"),
    ],
)
def test_one_job_that_ends_badly_is_named_once_and_the_others_are_done(
    tmp_path: Path, how: str, state: str, reason: str
) -> None:
    found = run(launcher(tmp_path, 1), "end", [{"how": "well"}, {"how": how}, {"how": "well"}])
    assert (found["1"].state, found["1"].value) == (state, None)
    assert reason in found["1"].reason
    assert found["0"].state == found["2"].state == "done"
    log = (tmp_path / "worker-0.log").read_text()
    assert log.count("printed by the job") == 2
    assert ("in end" in log) == (how in ("bug", "memory", "sys.exit"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count other memory")
def test_a_job_that_needs_more_memory_than_a_worker_has_fails_alone(tmp_path: Path) -> None:
    small = LocalLauncher(1, 1, True, tmp_path, memory_gb=0.5)
    found = run(small, "fill", [{"bytes": 2**20}, {"bytes": 2**30}, {"bytes": 2**20}])
    assert [found[name].state for name in "012"] == ["done", "failed", "done"]
    assert found["1"].reason.startswith("memory ran out (MemoryError")


def test_a_function_that_cannot_be_imported_fails_every_job(tmp_path: Path) -> None:
    found = run(launcher(tmp_path, 1), "missing", [{}, {}])
    assert {outcome.state for outcome in found.values()} == {"failed"}
    assert "missing" in found["0"].reason


def test_a_job_is_taken_when_a_worker_is_free_for_it(tmp_path: Path) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[Job]:
        for number in range(5):
            taken.append(number)
            yield Job(str(number), {})

    with closing(cast(Any, launcher(tmp_path).run("jobs:where", jobs()))) as outcomes:
        assert taken == []
        next(outcomes)
        assert len(taken) == 2


def test_no_jobs_start_no_worker(tmp_path: Path) -> None:
    assert run(launcher(tmp_path / "logs"), "where", []) == {}
    assert not (tmp_path / "logs").exists()


def test_closing_ends_workers_and_what_they_started(tmp_path: Path) -> None:
    jobs = [Job("quick", {"file": ""}), Job("long", {"file": str(tmp_path / "pids")})]
    outcomes = cast(Any, launcher(tmp_path).run("jobs:wait_forever", jobs))
    assert next(outcomes).state == "failed"
    until((tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    outcomes.close()
    until(lambda: all(map(gone, pids)))


CONTROLLER = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from penstock.hooks.contracts.launching import Job
from penstock.run.launchers.local import LocalLauncher
list(LocalLauncher(1, 1, True, Path({folder!r})).run("jobs:wait_forever", [Job("long", {{"file": {file!r}}})]))
"""


def test_workers_die_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    code = CONTROLLER.format(here=str(HERE), folder=str(tmp_path), file=str(tmp_path / "pids"))
    controller = subprocess.Popen([sys.executable, "-c", code])
    try:
        until((tmp_path / "pids").exists)
    finally:
        controller.send_signal(signal.SIGKILL)
        controller.wait()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    until(lambda: all(map(gone, pids)))


def test_a_config_builds_it_and_refuses_no_workers(tmp_path: Path) -> None:
    registry = Registry.discover()
    built = registry.build("launcher", {"use": "local", "workers": 3}, folder=tmp_path)
    assert isinstance(built, LocalLauncher)
    assert built.workers == 3
    with pytest.raises(ProblemError, match="workers"):
        registry.choose("launcher", {"use": "local", "workers": 0})
