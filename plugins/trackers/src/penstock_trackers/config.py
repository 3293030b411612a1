"""Settings of the trackers."""

from __future__ import annotations

from typing import Literal

from penstock.hooks.config import Schema


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
