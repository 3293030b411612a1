"""Settings of the launcher."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema


class RayConfig(Schema):
    """Tasks of a Ray cluster."""

    address: str | None = None
    """The cluster's head, such as "10.0.0.1:6379". Null starts Ray on this machine alone, and ends it afterwards."""
    workers: int = Field(default=8, ge=1)
    """How many jobs wait for a place in the cluster or run at once."""
    threads: int = Field(default=1, ge=1)
    """Processors and threads of a job. Small models train no faster with more than one."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory that a job reserves; null reserves none."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of a job; 0.5 puts two jobs on one."""
