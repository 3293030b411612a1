"""Prometheus: `http://HOST:PORT/metrics` while a run trains, on the rank that watches it.

A file names the address in the form of Prometheus's file-based discovery, so that one scrape config finds every run of
a machine: `prometheus.json` in the run directory, or a file in the folder `discovery`, because Prometheus allows a `*`
in the name of a file alone. It is gone when the run ends.
"""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from penstock.hooks.atomic import write_text
from penstock.hooks.contracts import StepRecord
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock_trackers.config import not_listening

LIBRARY = "prometheus_client"
DISCOVERY = "prometheus.json"
EVERYWHERE = ("", "0.0.0.0")
POLL = 0.1  # seconds between two looks whether the server is to end


class PrometheusObserver:
    """See `penstock.hooks.contracts.EvaluationObserver`.

    The port is taken when it is built, and served from `on_resume` or the first step on. A run refuses one in use
    before any work, by the settings.
    """

    def __init__(
        self,
        *,
        run_directory: Path,
        header: Mapping[str, Any],
        port: int = 9847,
        host: str = "127.0.0.1",
        discovery: Path | None = None,
    ) -> None:
        """Raises `ProblemError` if the library is not installed or the port is in use."""
        if importlib.util.find_spec(LIBRARY) is None:
            fix = 'install it with `uv add "penstock-trackers[prometheus]"`'
            what = f"observer 'prometheus' needs the library {LIBRARY}"
            raise ProblemError(Problem("missing-library", what, "train.observers", fix), ExitCode.PLUGIN)
        from penstock_trackers.scraped import RunMetrics

        self._metrics = RunMetrics(run_directory)
        self._server = _listening(host, port, self._metrics)
        config, run = run_directory.parent.name, run_directory.name
        self._labels = {"config": config, "run": run}
        self._discovery = discovery / f"{config}-{run}.json" if discovery else run_directory / DISCOVERY
        self._thread: Thread | None = None

    @property
    def address(self) -> str:
        """HOST:PORT that Prometheus scrapes."""
        host, port = self._server.server_address[:2]
        return f"{socket.gethostname() if host in EVERYWHERE else host}:{port}"

    def on_resume(self, step: int) -> None:
        self._metrics.resume(step)
        self._serve()

    def on_step(self, record: StepRecord) -> None:
        self._serve()
        self._metrics.step(record)

    def on_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._metrics.evaluation(step, figures)

    def on_checkpoint(self, step: int) -> None:
        """Nothing: the checkpoint is not written yet."""

    def on_end(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._discovery.unlink(missing_ok=True)
        self._server.server_close()
        self._thread = None

    def _serve(self) -> None:
        if self._thread is not None:
            return
        self._thread = Thread(target=self._server.serve_forever, args=(POLL,), name="prometheus", daemon=True)
        self._thread.start()
        self._discovery.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._discovery, json.dumps([{"targets": [self.address], "labels": self._labels}]) + "\n")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no news: stderr belongs to the run."""


def _listening(host: str, port: int, metrics: Any) -> WSGIServer:
    from prometheus_client import make_wsgi_app

    try:
        return make_server(host, port, make_wsgi_app(metrics.registry), _Server, handler_class=_Silent)
    except OSError as error:  # socket.gaierror too
        raise ProblemError(not_listening(host, port, error)) from error
