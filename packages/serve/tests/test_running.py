"""A server's process from start to end: ready, told to end, dying, and nothing of it left whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.hooks import ProblemError
from penstock.hooks.contracts.serving import ServerProcess
from penstock.serve.servers.running import RunningServer, url_of

# A server of two processes, as vLLM is several. The second has a session of its own and ignores SIGTERM.
SERVER = """
import http.server, signal, subprocess, sys, pathlib
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(sys.argv[1]).write_text(f"{server.server_port} {child.pid}")
server.serve_forever()
"""
# Runs a server in a process that a test can kill.
HOLDER = """
import sys, time
from penstock.hooks.contracts.serving import ServerProcess
from penstock.serve.servers.running import RunningServer
with RunningServer(ServerProcess(sys.argv[1:], {}, frozenset(), "/", "files"), "http://127.0.0.1:1", grace=5):
    time.sleep(600)
"""


def process_of(*arguments: str) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", *arguments], {}, frozenset(), "/", "files")


def told(file: Path) -> tuple[int, int]:
    """The port of the server, and its second process."""
    wait_until(lambda: file.is_file() and len(file.read_text().split()) == 2)
    port, pid = map(int, file.read_text().split())
    return port, pid


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def test_a_server_is_waited_for_and_ends_with_all_its_processes_when_it_is_told_to(tmp_path):
    file = tmp_path / "told"
    with RunningServer(process_of(SERVER, str(file)), "http://127.0.0.1:1", grace=5) as running:
        port, second = told(file)
        running.url = url_of("127.0.0.1", port)
        assert running.wait_until_ready()
        running.stop(signal.SIGTERM)
        assert running.wait() == 0
    assert gone(second)


def test_leaving_the_block_ends_a_server_that_does_not_listen(tmp_path):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with (tmp_path / "log").open("wb") as log, RunningServer(process_of(deaf), url_of("::", 1), log=log, grace=0.5):
        wait_until(lambda: (tmp_path / "log").read_bytes() != b"")
        begun = time.monotonic()
    assert time.monotonic() - begun < 5


def test_nothing_is_left_of_a_server_whose_starter_was_killed(tmp_path):
    file = tmp_path / "told"
    command = [sys.executable, "-c", HOLDER, sys.executable, "-c", SERVER, str(file)]
    with subprocess.Popen(command) as holder:
        _, second = told(file)
        first = int(Path(f"/proc/{second}/stat").read_text().rpartition(")")[2].split()[1])
        assert not gone(first)
        holder.kill()
    wait_until(lambda: gone(first) and gone(second))


def test_a_server_that_ends_before_it_is_ready_is_an_error_with_its_exit_code():
    with RunningServer(process_of("raise SystemExit(7)"), "http://127.0.0.1:1") as running:
        with pytest.raises(ProblemError, match="exit code 7 before it was ready") as raised:
            running.wait_until_ready()
        assert raised.value.problems[0].code == "engine-died"
        assert running.wait() == 7


def test_a_server_that_is_not_ready_in_time_is_an_error():
    sleeping = process_of("import time; time.sleep(600)")
    with (
        RunningServer(sleeping, "http://127.0.0.1:1", grace=1) as running,
        pytest.raises(ProblemError, match="not ready within 0 s"),
    ):
        running.wait_until_ready(0.3)


def test_a_server_that_is_stopped_before_it_is_ready_is_none():
    with RunningServer(process_of("import time; time.sleep(600)"), "http://127.0.0.1:1", grace=5) as running:
        time.sleep(0.5)
        running.stop(signal.SIGINT)
        assert not running.wait_until_ready()
        assert running.wait() == 0


def test_the_guard_imports_the_standard_library_alone():
    code = "import sys, penstock.serve.servers.guard; sys.exit(bool({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
