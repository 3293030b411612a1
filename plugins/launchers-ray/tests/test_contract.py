"""Every component of the package keeps the laws of its kind, on a cluster of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from penstock_ray import plugin

from penstock.conformance import parametrize_contract

pytest.importorskip("ray", reason="`nox -s ray` tests with Ray")


HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"  # Ray on Linux takes 127.0.0.1 for the host's name


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listening = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in listening:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in listening]


PORT, CLIENTS, DASHBOARD = free_ports(3)


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of two places. With `--block`, what `ray start` has started ends with it."""
    log = tmp_path_factory.mktemp("ray") / "head.log"
    options = ["--head", "--block", f"--node-ip-address={HOST}", f"--port={PORT}", "--num-cpus=2"]
    options += [f"--ray-client-server-port={CLIENTS}", f"--dashboard-port={DASHBOARD}"]
    options += ["--include-dashboard=false", "--disable-usage-stats"]
    command = [str(Path(sys.executable).with_name("ray")), "start", *options]
    head = started(command, log) or started(command, log) or started(command, log)
    assert head is not None, log.read_text()
    yield
    head.terminate()
    head.wait()


def started(command: list[str], log: Path) -> subprocess.Popen[bytes] | None:
    """The head once it runs. None if it ended: Ray gives up where its processes take half a minute to start, as on a
    busy machine they do, but less so the second time."""
    with log.open("wb") as said:
        head = subprocess.Popen(command, stdout=said, stderr=said)
    while "Ray runtime started" not in log.read_text():
        if head.poll() is not None:
            return None
        time.sleep(0.1)
    return head


@parametrize_contract(plugin, settings={"ray": {"address": f"{HOST}:{PORT}", "workers": 2}})
def test_contract(case):
    case()
