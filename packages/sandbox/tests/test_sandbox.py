"""Verdicts of each level, and what is left behind: nothing."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.hooks.problems import ProblemError
from penstock.sandbox.cgroups import PREFIX
from penstock.sandbox.sandbox import MOST_SOURCE, Sandbox
from penstock.sandbox.verdict import Limits, Verdict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")
LIMITS = Limits(seconds=20.0, output=10_000)


def opened(level, limits: Limits = LIMITS, **options) -> Sandbox:
    try:
        return Sandbox(level, limits=limits, **options)
    except ProblemError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def full() -> Iterator[Sandbox]:
    with opened("full") as sandbox:
        yield sandbox


@pytest.fixture(scope="module", params=("full", "reduced", "none"))
def any_level(request) -> Iterator[Sandbox]:
    with opened(request.param) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("program", "outcome", "reason"),
    [
        ("assert 1 + 1 == 2", "passed", ""),
        ("x = 1\nassert x == 2, 'no'", "failed", "AssertionError: no (line 2)"),
        ("def f():\n    return 1 / 0\nf()", "failed", "ZeroDivisionError: division by zero (line 2)"),
        ("def broken(:", "failed", "SyntaxError: invalid syntax (program.py, line 1)"),
        ("x = '\0'", "failed", None),
        ("import sys\nsys.exit(0)", "ended early", "SystemExit: 0 (line 2)"),
        ("import os; os._exit(7)", "ended early", "left before its last line, with exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "killed", None),
        (b"x = '\xff'", "not a program", "is not UTF-8 text (byte 5)"),
        ("x = '\ud800'", "not a program", "is not UTF-8 text (byte 5)"),
        ("print('x' * 20_000)", "too much output", "printed more than 10000 bytes"),
        ("while True: print('x' * 1000)", "too much output", "printed more than 10000 bytes"),
        ("", "passed", ""),
        ("import os; os._exit(137)", "ended early", "left before its last line, with exit code 137"),
        ("import os; os._exit(152)", "ended early", "left before its last line, with exit code 152"),
        ("exit()", "ended early", "SystemExit: None (line 1)"),
        ("quit(3)", "ended early", "SystemExit: 3 (line 1)"),
        (b"\xef\xbb\xbfassert 1", "passed", ""),
        (b"# coding: latin-1\nassert ascii('\xff') == r\"'\\xff'\"", "passed", ""),
        ("# coding: martian\n", "failed", "SyntaxError: unknown encoding: martian (program.py, line 0)"),
        (b"# coding: latin-1\nx = '\xff", "failed", None),
        ("raise ValueError('\\x1b[2J\\x9b\\u202ex')", "failed", "ValueError: \\x1b[2J\\x9b\\u202ex (line 1)"),
    ],
)
def test_every_end_has_its_verdict(any_level: Sandbox, program, outcome: str, reason: str | None) -> None:
    verdict = any_level.run(program)
    assert verdict.outcome == outcome
    assert reason is None or verdict.reason == reason


@pytest.mark.parametrize("report", ["passed", "MADE UP \x1b[2J outcome\nhi", "not locked", "failed\n\x1b[2J"])
def test_a_report_of_its_own_is_one_of_the_outcomes_and_never_a_pass(any_level: Sandbox, report: str) -> None:
    verdict = any_level.run(f"import os; os.write(3, {report.encode()!r}); os._exit(0)")
    assert verdict.outcome == ("failed" if report.startswith("failed") else "ended early")
    assert report.split("\x1b")[0].split("\n")[0] in f"{verdict.outcome} {verdict.reason}"
    assert verdict.reason.isprintable()


def test_a_child_that_fails_does_not_fail_its_parent(full: Sandbox) -> None:
    assert full.run("import os\nif os.fork() == 0:\n    raise ValueError\nos.wait()").passed


def test_a_program_has_a_size(any_level: Sandbox) -> None:
    assert any_level.run(b"#" * MOST_SOURCE).passed
    verdict = any_level.run("#" * (MOST_SOURCE + 1))
    assert (verdict.outcome, verdict.reason) == ("not a program", f"is longer than {MOST_SOURCE} bytes")


def test_the_reason_tells_that_the_load_scaled_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (100.0 * len(os.sched_getaffinity(0)), 0.0, 0.0))
    with opened("none", Limits(seconds=0.1)) as sandbox:
        reason = sandbox.run("import time; time.sleep(60)").reason
        assert reason == "ran for more than 1.6 seconds (0.1 seconds, 16 times as long for the load of the machine)"


def test_the_processors_seconds_are_told_apart(any_level: Sandbox) -> None:
    reason = any_level.run("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)").reason
    assert reason == "ran for more than 20 seconds of the processor"


@pytest.mark.parametrize("level", ["full", "reduced", "none"])
def test_what_never_ends_is_ended(level) -> None:
    with opened(level, Limits(seconds=0.5)) as sandbox:
        for program in ("while True: pass", "import time; time.sleep(1e6)"):
            verdict = sandbox.run(program)
            assert (verdict.outcome, verdict.seconds < 60) == ("timed out", True)


def test_a_program_that_outgrows_its_memory_fails_or_is_killed(any_level: Sandbox) -> None:
    verdict = any_level.run("held = [bytes(64 << 20) for _ in range(16)]")
    assert verdict.outcome in ("failed", "killed")


def test_output_is_kept_as_text(any_level: Sandbox) -> None:
    program = (
        "import os, sys\nprint('out', flush=True)\nprint('error', file=sys.stderr, flush=True)\nos.write(1, b'\\xff')"
    )
    verdict = any_level.run(program)
    assert (verdict.outcome, verdict.output) == ("passed", "out\nerror\n\ufffd")


def test_verdicts_come_in_the_order_of_the_programs(full: Sandbox) -> None:
    programs = [f"assert {number} % 3" for number in range(9)]
    assert [verdict.passed for verdict in full.run_all(programs)] == [bool(number % 3) for number in range(9)]


def test_workers_run_programs_at_once() -> None:
    """Two that each wait for longer than half of their time end within the time of one."""
    with opened("full", workers=2) as sandbox:
        begun = time.monotonic()
        assert [verdict.passed for verdict in sandbox.run_all(["import time; time.sleep(1)"] * 2)] == [True, True]
        alone = sandbox.run("import time; time.sleep(1)").seconds
        assert time.monotonic() - begun < 3 * alone


def test_threads_share_a_sandbox(full: Sandbox) -> None:
    found: list[Verdict] = []
    threads = [threading.Thread(target=lambda: found.append(full.run("print(6 * 7)"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.output for verdict in found] == ["42\n"] * 4


def test_full_is_a_machine_of_its_own(full: Sandbox) -> None:
    program = """
import os, socket, subprocess, sys, tempfile
assert os.getpid() < 10 and os.getuid() != 0
assert os.listdir() == [] and not os.path.exists("/proc") and not os.path.exists("/home")
open("file", "w").write("x")
assert tempfile.NamedTemporaryFile().name.startswith(os.getcwd())
assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout == "1\\n"
assert "PENSTOCK" not in "".join(os.environ)
one, other = socket.socketpair()
"""
    os.environ["PENSTOCK_TEST"] = "x"
    verdict = full.run(program)
    del os.environ["PENSTOCK_TEST"]
    assert verdict.passed, verdict


def test_reduced_reads_the_interpreter_and_nothing_else() -> None:
    program = """
import colorsys, os, threading
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
for refused in (
    lambda: open("/etc/passwd"), lambda: os.listdir("/"), lambda: open("/tmp/x", "w"), lambda: os.fork(),
    lambda: os.execv("/bin/true", ["true"]), lambda: os.chmod("/tmp", 0o777), lambda: __import__("socket").socket(),
    lambda: os.kill(os.getppid(), 0), lambda: open("/proc/self/environ"),
):
    try:
        refused()
    except OSError:
        continue
    raise AssertionError(refused.__code__.co_names)
"""
    with opened("reduced") as sandbox:
        verdict = sandbox.run(program)
    assert verdict.passed, verdict


def test_an_interrupted_run_leaves_its_answer_to_nobody(any_level: Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            any_level.run("import time; time.sleep(60)")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert any_level.run("print(1)").output == "1\n"
    assert any_level.run("1 / 0").outcome == "failed"


def test_closing_ends_what_runs() -> None:
    before = held().keys()
    sandbox = opened("full")
    closing = threading.Timer(0.5, sandbox.close)
    closing.start()
    with pytest.raises(ValueError, match="closed while the program ran"):
        sandbox.run("import time; time.sleep(60)")
    closing.join()
    assert held().keys() == before


def test_a_lost_zygote_is_started_again(full: Sandbox) -> None:
    full._workers[0]._process.kill()
    full._workers[0]._process.wait()
    assert full.run("pass").outcome == "killed"
    assert full.run("pass").passed


def held() -> dict[str, int]:
    """The processes that this one has started, with the files and mounts of each, and its control groups."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    counted = {str(path): 0 for path in Path("/sys/fs/cgroup").rglob(f"{PREFIX}{os.getpid()}-*")}
    for pid in found - {os.getpid()}:
        files, mounts = Path(f"/proc/{pid}/fd"), Path(f"/proc/{pid}/mountinfo")
        counted[f"{pid}"] = len(list(files.iterdir())) + len(mounts.read_text().splitlines())
    return counted


def test_nothing_is_left_behind() -> None:
    before = held()
    sandbox = opened("full")
    started = held()
    program = "import os\nopen('file', 'w').write('x')\nif os.fork() == 0:\n    import time; time.sleep(100)"
    for _ in range(5):
        assert sandbox.run(program).passed
    assert held() == started
    assert len(started) > len(before)
    sandbox.close()
    assert held() == before
