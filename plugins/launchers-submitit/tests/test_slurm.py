"""What submitit submits for our settings, and what becomes of jobs, on a Slurm that runs scripts on this machine."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from penstock_submitit import plugin
from penstock_submitit.launcher import SubmititLauncher

from penstock.hooks.contracts.launching import Job
from penstock.hooks.discovery import Loaded, Origin
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "threads": 2,
        "minutes": 90,
        "memory_gb": 1.5,
        "gpus": 1,
        "partition": "short",
        "account": "physics",
        "qos": "low",
        "sbatch": {"constraint": "skylake", "exclusive": True},
        "setup": ["module load python/3.11"],
    },
}
FUNCTION = "penstock.conformance.launched:"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of submitted scripts."""
    commands, folder = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir(), folder.mkdir()  # pyright: ignore[reportUnusedExpression]
    for name in ("sbatch", "srun", "sacct", "scancel"):
        file = commands / name
        file.write_text(f"#!{sys.executable}\n" + (HERE / "slurm.py").read_text())
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_OF_TESTS", str(folder))
    return folder


def build(folder: Path, **settings: Any) -> SubmititLauncher:
    registry = Registry([Loaded(Origin("penstock-submitit", "0.1.0", "none"), tuple(plugin.launchers()))])
    return registry.build("launcher", {"use": "submitit", **settings}, folder=folder)


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("name", CASES)
def test_settings_become_the_script_that_submitit_writes(slurm: Path, tmp_path: Path, name: str) -> None:
    (outcome,) = build(tmp_path / "logs", **CASES[name]).run(f"{FUNCTION}doubled", [Job("one", {"number": 21})])
    assert outcome.value == {"number": 42}
    (script,) = slurm.glob("*.sbatch")
    text = script.read_text().replace(str(tmp_path), "RUNS").replace(shlex.quote(sys.executable), "PYTHON")
    golden = HERE / "golden" / f"{name}.sbatch"
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_jobs_that_raise_fail_and_jobs_that_die_are_lost_with_slurms_state(slurm: Path, tmp_path: Path) -> None:
    jobs = [Job(how, {"how": how, "text": "too wide"}) for how in ("well", "raises", "killed")]
    outcomes = {each.name: each for each in build(tmp_path / "logs", workers=3).run(f"{FUNCTION}ends", jobs)}
    assert {name: each.state for name, each in outcomes.items()} == {
        "well": "done",
        "raises": "failed",
        "killed": "lost",
    }
    assert outcomes["raises"].reason == "ValueError: too wide"
    assert re.fullmatch(
        r"job \d ended without a result in the state FAILED; its log is \S+\.err", outcomes["killed"].reason
    )


def test_closing_cancels_the_jobs(slurm: Path, tmp_path: Path) -> None:
    file = tmp_path / "stays"
    outcomes: Any = build(tmp_path / "logs").run(
        f"{FUNCTION}stays", [Job("quick", {"file": None}), Job("long", {"file": str(file)})]
    )
    assert next(outcomes).name == "quick"
    until(file.exists)
    outcomes.close()
    until(lambda: not Path(f"/proc/{file.read_text()}").exists())
    until(lambda: sorted(each.read_text() for each in slurm.glob("*.state")) == ["CANCELLED", "COMPLETED"])


CONTROLLER = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_slurm import FUNCTION, Job, build
list(build(Path({logs!r}), cluster={cluster!r}).run(FUNCTION + "stays", [Job("long", {{"file": {file!r}}})]))
"""


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_jobs_of_a_launcher_that_was_killed_end_with_the_next(slurm: Path, tmp_path: Path, cluster: str) -> None:
    file, logs = tmp_path / "stays", tmp_path / "logs"
    code = CONTROLLER.format(here=str(HERE), logs=str(logs), cluster=cluster, file=str(file))
    controller = subprocess.Popen([sys.executable, "-c", code])
    until(file.exists)
    controller.kill()
    controller.wait()
    assert Path(f"/proc/{file.read_text()}").exists()
    (outcome,) = build(logs, cluster=cluster).run(f"{FUNCTION}doubled", [Job("one", {"number": 2})])
    assert outcome.state == "done"
    until(lambda: not Path(f"/proc/{file.read_text()}").exists())


def test_jobs_end_where_their_launcher_ignores_interrupts(tmp_path: Path) -> None:
    """As what a script starts in its background does."""
    file = tmp_path / "stays"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcomes: Any = build(tmp_path / "logs", cluster="local", workers=2).run(
            f"{FUNCTION}stays", [Job("quick", {"file": None}), Job("long", {"file": str(file)})]
        )
        next(outcomes)
        until(file.exists)
        outcomes.close()
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: not Path(f"/proc/{file.read_text()}").exists())


def test_a_machine_without_slurm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProblemError, match="no srun"):
        list(build(tmp_path / "logs").run(f"{FUNCTION}doubled", []))
