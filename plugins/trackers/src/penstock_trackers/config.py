"""Settings of the trackers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import OutputPath


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

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"port": 0}
