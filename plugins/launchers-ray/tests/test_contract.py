"""Every component of the package keeps the laws of its kind, on a cluster of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from penstock_ray import plugin

from penstock.conformance import parametrize_contract

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="`nox -s ray` tests with Ray")

# Less than `ray start`, of which a busy machine does not start all processes in the 15 seconds that Ray waits for one.
CLUSTER = """
import sys, ray
given = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
print(ray.init(address="local", **given).address_info["address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of two places; it ends with the process that has started it."""
    log = tmp_path_factory.mktemp("ray") / "cluster.log"
    with log.open("wb") as said, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        command = [sys.executable, "-c", CLUSTER]
        head = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        assert address, Path(log).read_text()
        patch.setenv("RAY_ADDRESS", address)  # what "auto" means
        yield
        head.communicate()


@parametrize_contract(plugin, settings={"ray": {"address": "auto", "workers": 2}})
def test_contract(case):
    case()
