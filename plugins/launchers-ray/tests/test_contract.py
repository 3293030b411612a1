"""Every component of the package keeps the laws of its kind, on a cluster of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from penstock_ray import plugin

from penstock.conformance import parametrize_contract

pytest.importorskip("ray", reason="`nox -s ray` tests with Ray")


HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"  # Ray on Linux takes 127.0.0.1 for the host's name


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return listening.getsockname()[1]


PORT = free_port()


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of two places. With `--block`, what `ray start` has started ends with it."""
    log = tmp_path_factory.mktemp("ray") / "head.log"
    options = ["--head", "--block", f"--node-ip-address={HOST}", f"--port={PORT}", "--num-cpus=2"]
    options += ["--include-dashboard=false", "--disable-usage-stats"]
    command = [str(Path(sys.executable).with_name("ray")), "start", *options]
    with pytest.MonkeyPatch.context() as patch, log.open("wb") as said:
        patch.setenv("RAY_raylet_start_wait_time_s", "300")
        head = subprocess.Popen(command, stdout=said, stderr=said)
        yield from until_the_test_ends(head, log)


def until_the_test_ends(head: subprocess.Popen[bytes], log: Path) -> Iterator[None]:
    try:
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        head.terminate()
        head.wait()


@parametrize_contract(plugin, settings={"ray": {"address": f"{HOST}:{PORT}", "workers": 2}})
def test_contract(case):
    case()
