"""What all manifests of a server are written from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from penstock.hooks.problems import Problem, ProblemError

PORT = 8000
USER = 10001
"""Nobody's number on the host, so that a process that breaks out owns nothing there."""
KEY = "PENSTOCK_API_KEY"
MOUNTED = PurePosixPath("/model")
LONGEST_NAME = 57
"""A Kubernetes name has up to 63 characters, of which `-model` takes six."""
DECIDED = {"--host", "--port", "--name", "--drain", "--api-key", "--api-key-file"}
"""Options of `penstock serve` that its manifests decide."""
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one server gets: cores, GiB of memory, GPUs."""

    cpus: float = 2.0
    memory: float = 4.0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Deployment:
    """A server. `command` is its command line inside the container, where `model` is at `mounted`.

    GET of `alive` is answered while the process is well, and of `ready` while it takes requests. `environment` has
    variables with their values, `secrets` the names of those whose values stand in no manifest. After SIGTERM, running
    requests get `drain` seconds. The image is built from the Python packages in `packages`; without any it is pulled.
    Raises `ProblemError` for a name that Kubernetes does not take.
    """

    name: str
    image: str
    command: Sequence[str]
    model: Path
    port: int = PORT
    ready: str = "/ready"
    alive: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Sequence[str] = (KEY,)
    packages: Sequence[str] = ()
    resources: Resources = field(default_factory=Resources)
    replicas: int = 1
    drain: int = 30

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > LONGEST_NAME:
            what = f"'{self.name}' is no name for Kubernetes"
            fix = f"use lower-case letters, digits and hyphens, a letter first, at most {LONGEST_NAME}"
            raise ProblemError(Problem("bad-name", what, "--name", fix))

    @property
    def mounted(self) -> PurePosixPath:
        return mounted(self.model)

    @property
    def variables(self) -> dict[str, str]:
        """`environment`, with a home that can be written to: all else of the container is read-only."""
        return {"HOME": "/tmp", **self.environment}


def mounted(model: Path) -> PurePosixPath:
    """Where a model is inside the container: a folder itself, a file in a folder of its own.

    >>> mounted(Path("runs/model.penstock"))
    PurePosixPath('/model/model.penstock')
    """
    return MOUNTED if model.is_dir() else MOUNTED / model.name


def penstock_deployment(
    model: Path,
    *,
    name: str = "penstock-server",
    served_as: str | None = None,
    image: str | None = None,
    port: int = PORT,
    options: Sequence[str] = (),
    resources: Resources | None = None,
    replicas: int = 1,
    drain: int = 30,
) -> Deployment:
    """The deployment of `penstock serve MODEL`, with `options` at the end of its command line. Without an `image`, one
    is built of this release. Requests call the model `served_as`, or by the last part of its path. Raises
    `ProblemError` for an option that the manifests decide."""
    if decided := sorted({each.partition("=")[0] for each in options} & DECIDED):
        fix = "leave them out: the manifests say where it listens, and keys stand in none of them"
        raise ProblemError(Problem("bad-value", f"{', '.join(decided)} cannot be given", "OPTIONS", fix))
    release = version("penstock-serve")
    command = ["penstock", "serve", str(mounted(model)), "--host", "0.0.0.0", "--port", str(port)]
    command += ["--name", served_as or model.resolve().name, "--drain", str(drain), *options]
    return Deployment(
        name=name,
        image=image or f"{name}:{release}",
        command=command,
        model=model,
        port=port,
        packages=() if image else (f"penstock-server=={release}",),
        resources=resources or Resources(),
        replicas=replicas,
        drain=drain,
    )
