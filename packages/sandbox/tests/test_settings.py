"""What a sandbox refuses before any program runs."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.hooks.problems import ProblemError
from penstock.sandbox.sandbox import Sandbox
from penstock.sandbox.verdict import Limits

VALUES = {
    "seconds": (0, -1, math.inf, -math.inf, math.nan, True, "3", None, 1e9),
    "memory": (0, -1, 1 << 20, 1 << 70, math.inf, math.nan, 1e9, True, None),
    "files": (0, -1, 1 << 70, math.nan, 1.5, True, None),
    "processes": (0, -5, 1 << 20, 1.5, math.inf, True, None),
    "output": (-1, 1 << 40, math.nan, 1.5, False, None),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VALUES.items() for value in values])
def test_every_limit_has_a_range(name: str, value) -> None:
    with pytest.raises(ProblemError, match=rf"sandbox: limits.{name}: .* is out of range, use a (whole )?number from"):
        Sandbox("none", limits=Limits(**{name: value}))


@pytest.mark.parametrize("workers", [0, -1, 1.0, math.nan, True, None, 10**9])
def test_there_is_at_least_one_worker(workers) -> None:
    with pytest.raises(ProblemError, match=r"sandbox: workers: .* is out of range, use a whole number from 1"):
        Sandbox("none", workers=workers)


@pytest.mark.parametrize("level", ["fulll", "", None, 3, ["full"]])
def test_an_unknown_level_is_refused(level) -> None:
    with pytest.raises(ProblemError, match="unknown level") as refused:
        Sandbox(level)
    assert level != "fulll" or "did you mean 'full'?" in str(refused.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ProblemError) as refused:
        Sandbox("fulll", limits=Limits(seconds=-1, memory=-1), workers=0)  # pyright: ignore[reportArgumentType]
    assert [problem.code for problem in refused.value.problems] == ["invalid-value"] * 4


def test_the_least_and_the_most_work() -> None:
    for limits in (Limits(seconds=0.5, memory=64 << 20, files=1, processes=1, output=0), Limits(seconds=86_400)):
        with Sandbox("none", limits=limits) as sandbox:
            assert sandbox.run("x = 1").passed


def test_a_closed_sandbox_and_what_is_no_text_are_refused() -> None:
    with Sandbox("none") as sandbox:
        for program in (None, 3, ["pass"], bytearray(b"pass")):
            with pytest.raises(ValueError, match="a program is text or bytes, not"):
                sandbox.run(program)  # pyright: ignore[reportArgumentType]
    for run in (sandbox.run, lambda program: list(sandbox.run_all([program]))):
        with pytest.raises(ValueError, match="the sandbox is closed"):
            run("pass")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_forked_process_leaves_the_sandbox_alone() -> None:
    with Sandbox("none") as sandbox:
        if (child := os.fork()) == 0:
            refused = False
            try:
                sandbox.run("pass")
            except ValueError:
                refused = True
            sandbox.close()
            os._exit(0 if refused else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert sandbox.run("pass").passed


def test_an_interpreter_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("")
    for name in ("python", "missing"):
        monkeypatch.setattr(sys, "executable", str(tmp_path / name))
        with pytest.raises(ProblemError, match=rf"the interpreter {tmp_path / name} cannot be run"):
            Sandbox("none")


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are listed in /proc")
@pytest.mark.parametrize("level", ["full", "reduced", "none"])
def test_few_descriptors_are_told_or_enough(level: str) -> None:
    program = f"""
import resource, sys
from penstock.hooks.problems import ProblemError
from penstock.sandbox.sandbox import Sandbox
for most in range(24, 6, -3):
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with Sandbox({level!r}) as sandbox:
            print(sandbox.run("pass").outcome)
    except ProblemError as error:
        print("few" if "too few file descriptors" in str(error) and "accept" not in str(error) else error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = done.stdout.split("\n")[:-1]
    if "level" in said[0]:
        pytest.skip(said[0])
    assert (done.returncode, set(said), said[0], said[-1]) == (0, {"passed", "few"}, "passed", "few"), done.stderr
