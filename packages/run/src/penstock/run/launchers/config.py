"""Settings of launchers. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema


class LocalConfig(Schema):
    """Worker processes on this machine."""

    workers: int | None = Field(default=None, ge=1)
    """How many jobs run at once. Null: as many as the cores of this process allow."""
    threads: int = Field(default=1, ge=1)
    """Threads of a worker. Small models train faster in two processes of one thread than in one of two."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of a worker; a job that needs more fails, and the others go on. Null: no limit, and the system kills a
    worker when memory runs out."""
    pin: bool = True
    """Whether each worker keeps to cores of its own, if there are enough. Off where other work shares the machine."""
