"""The hub where nothing listens."""

import socket
import time

import pytest

from penstock.eval_suite.hub import is_reachable
from penstock.eval_suite.lambada import Lambada
from penstock.eval_suite.runner import prepare
from penstock.hooks import ProblemError
from penstock.hooks.contracts import TaskContext


@pytest.fixture
def nowhere(monkeypatch):
    """An address at which nothing listens, and no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_hub_that_cannot_be_reached_is_said_at_once(nowhere, tokenizer, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    before, begun = constants.HF_HUB_OFFLINE, time.perf_counter()
    with pytest.raises(ProblemError, match="cannot be loaded from the hub"):
        prepare(Lambada(), TaskContext(tokenizer, None, 16))
    assert time.perf_counter() - begun < 10  # the client alone tries for 25 s
    assert (before, before) == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)


def test_a_server_or_a_proxy_makes_the_hub_reachable(nowhere, monkeypatch):
    assert not is_reachable(nowhere)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_reachable(f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert is_reachable(nowhere)
