"""Settings of the trackers."""

from __future__ import annotations

from typing import Literal

from penstock.hooks.config import Schema


class TrackioConfig(Schema):
    """A project of Trackio."""

    project: str | None = None
    """The project's name; null takes the name of the config."""


class WandbConfig(Schema):
    """A project of Weights & Biases."""

    project: str | None = None
    """The project's name; null takes the name of the config."""
    mode: Literal["offline", "online"] = "offline"
    """Offline writes to the run directory, from where `wandb sync` can send it later; online sends while training."""


class MlflowConfig(Schema):
    """An experiment of MLflow."""

    experiment: str | None = None
    """The experiment's name; null takes the name of the config."""
    tracking_uri: str | None = None
    """Where the server or database is; null is `mlflow/mlflow.db` in the run directory."""
