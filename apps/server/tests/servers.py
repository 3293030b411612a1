"""A server in processes of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass(frozen=True)
class Running:
    """A server. `url` is that of its interface."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client
    log: Path

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def completed(self, prompt: Any, **body: Any) -> dict[str, Any]:
        response = self.post("/v1/completions", prompt=prompt, **body)
        assert response.status_code == 200, response.text
        return response.json()

    def engine(self) -> int:
        """The process of the engine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (child,) = [each for each in children if b"server.engine" in Path(f"/proc/{each}/cmdline").read_bytes()]
        return int(child)


@contextmanager
def serving(model: Path, folder: Path, *options: str, key: str | None = None) -> Iterator[Running]:
    """`penstock serve MODEL` at a port of its own, until the block ends."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    command = [str(Path(sys.executable).with_name("penstock")), "serve", str(model), "--port", "0", "--threads", "1"]
    with log.open("w") as written:
        process = subprocess.Popen([*command, *options], stderr=written, text=True, start_new_session=True)
    try:
        url = _url(process, log)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield Running(process, url, client, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _url(process: subprocess.Popen[str], log: Path) -> str:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        if found := re.search(r"(http://\S+)/v1", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready: {log.read_text()}")
