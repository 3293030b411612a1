"""What all manifests of a server are written from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from penstock.hooks.contracts.serving import ServerProcess
from penstock.hooks.problems import Problem, ProblemError

PORT = 8000
USER = 10001
"""Nobody's number on the host, so that a process that breaks out owns nothing there."""
MOUNTED = PurePosixPath("/model")
LONGEST_NAME = 57
"""A Kubernetes name has up to 63 characters, of which `-model` takes six."""
DECIDED = {"--host", "--port", "--api-key", "--api-key-file"}
"""Options of servers that manifests decide."""
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
    secrets: Sequence[str] = ()
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


def deployment_of(
    process: ServerProcess,
    model: Path,
    *,
    name: str = "penstock-server",
    image: str | None = None,
    port: int = PORT,
    options: Sequence[str] = (),
    resources: Resources | None = None,
    replicas: int = 1,
    drain: int = 30,
) -> Deployment:
    """The deployment of a server that listens at `port` of every address and serves `model`, with `options` at the end
    of its command line. Without an `image`, one of our own server is built, of this release. Raises `ProblemError` for
    an option that the manifests decide."""
    if decided := sorted({each.partition("=")[0] for each in options} & DECIDED):
        fix = "leave it out: the manifests decide where the server listens, and no key stands in them"
        raise ProblemError([Problem("bad-value", "cannot be given", option, fix) for option in decided])
    release = version("penstock-serve")
    program, *arguments = process.arguments
    return Deployment(
        name=name,
        image=image or f"{name}:{release}",
        command=[_program(program), *(_inside(word, model) for word in arguments), *options],
        model=model,
        port=port,
        ready=process.ready,
        environment={each: value for each, value in process.environment.items() if each not in process.secrets},
        secrets=sorted(process.secrets),
        packages=() if image else (f"penstock-server=={release}",),
        resources=resources or Resources(),
        replicas=replicas,
        drain=drain,
    )


def _program(path: str) -> str:
    """The name of a program, which an image has at a place of its own.

    >>> _program("/env/bin/python3.11"), _program("llama-server")
    ('python3', 'llama-server')
    """
    name = Path(path).name
    return "python3" if name.startswith("python") else name


def _inside(word: str, model: Path) -> str:
    """A word of a command line inside the container, where the model, or a file in its folder, is elsewhere."""
    if word == str(model):
        return str(mounted(model))
    return str(MOUNTED / Path(word).relative_to(model)) if word.startswith(f"{model}/") else word
