"""Settings of the launcher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock.hooks.config import Schema


class SubmititConfig(Schema):
    """Jobs that submitit submits."""

    cluster: Literal["slurm", "local"] = "slurm"
    """`slurm`, or `local`: processes of this machine, to try settings."""
    workers: int = Field(default=8, ge=1)
    """How many jobs wait in the queue or run at once."""
    threads: int = Field(default=1, ge=1)
    """Processors and threads of a job. Small models train no faster with more than one."""
    minutes: int = Field(default=60, ge=1)
    """Time limit of a job. A run that needs longer goes on from its last checkpoint in another job."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of a job; null is what the cluster gives."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a job."""
    partition: str | None = None
    """Slurm's partition; null is the cluster's default."""
    account: str | None = None
    """Slurm's account."""
    qos: str | None = None
    """Slurm's quality of service."""
    sbatch: dict[str, str | int | bool] = {}
    """Other options of sbatch by their long names, such as {constraint: skylake, exclusive: true}."""
    setup: list[str] = []
    """Lines of shell that a job runs first, such as `module load python`."""
