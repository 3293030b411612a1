"""Settings of the trackers."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import OutputPath
from penstock.hooks.problems import Problem


class TrackioConfig(Schema):
    """Settings of `trackio`."""

    project: str | None = None
    """Name of the project; null means the name of the config."""


class WandbConfig(Schema):
    """Settings of `wandb`."""

    project: str | None = None
    """Name of the project; null means the name of the config."""
    mode: Literal["offline", "online"] = "offline"
    """`offline` writes to the run directory, and `wandb sync` can upload it later; `online` uploads during training."""


class MlflowConfig(Schema):
    """Settings of `mlflow`."""

    experiment: str | None = None
    """Name of the experiment; null means the name of the config."""
    tracking_uri: str | None = None
    """URI of the server or database; null means `mlflow/mlflow.db` in the run directory."""


class PrometheusConfig(Schema):
    """Settings of `prometheus`."""

    port: int = Field(default=9847, ge=0, le=65535)
    """Port of `http://HOST:PORT/metrics`; 0 takes a free one, so that several runs of one machine need no setting."""
    host: str = "127.0.0.1"
    """IPv4 address or name to listen on; 0.0.0.0 lets other machines scrape."""
    discovery: OutputPath | None = None
    """Folder of a file that names the address while the run trains, in the form of Prometheus's file-based discovery;
    null means `prometheus.json` in the run directory."""

    def unavailable(self) -> Iterator[tuple[tuple[str | int, ...], Problem]]:
        """A port that another process listens on."""
        try:
            with socket.socket() as asked:
                asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: a closed one may linger
                asked.bind((self.host, self.port))
        except OSError as error:
            yield ("port",), not_listening(self.host, self.port, error)

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"port": 0}


def not_listening(host: str, port: int, error: OSError) -> Problem:
    """An address that is in use or not this machine's."""
    what = f"observer 'prometheus' cannot listen on {host}:{port} ({error.strerror or error})"
    return Problem("port-unavailable", what, "train.observers", "use another port, or 0 for a free one")
