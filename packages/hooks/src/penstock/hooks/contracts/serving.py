"""Exporting a model to other software, and serving it over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from penstock.hooks.contracts.model import LanguageModel
from penstock.hooks.contracts.tensors import Tensor
from penstock.hooks.contracts.weights import SharingPlan, StoragePlan
from penstock.hooks.problems import Problem

Progress: TypeAlias = Callable[[int, int], None]
"""Told how much is done, and of how much."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A run's model, and what the run says of it.

    `state` are the parameters and buffers by their names in the model, without those that sharing and quantizers added;
    `storage` says how a parameter is stored, by its role, and `sharing` which names of `state` are one tensor.
    `architecture` is the id of the component that built the model from `config`, the run's config with every value
    resolved. `step`, `tokens` and `sha256` (of its manifest) are the checkpoint's. `files` are the run's by name:
    `tokenizer.json`, and those that find its data again.
    """

    model: LanguageModel
    state: Mapping[str, Tensor]
    storage: StoragePlan
    sharing: SharingPlan
    architecture: str
    config: Mapping[str, Any]
    step: int
    tokens: int | None
    sha256: str
    files: Mapping[str, Path]


class Exporter(Protocol):
    """Writes a model for other software and returns the files written: contract 1."""

    def export(self, model: LanguageModel, tokenizer_file: Path, folder: Path) -> list[Path]: ...


class RunExporter(Protocol):
    """Writes a model with what its run says of it, and returns the files written: contract 2.

    `suffix` ends the name of the one file that `path` is; empty: `path` is a folder. Raises `ProblemError` with nothing
    changed at `path` for what it cannot write, and for a `path` that holds what no export wrote.
    """

    suffix: str

    def export(self, trained: TrainedModel, path: Path, progress: Progress | None = None) -> list[Path]: ...


Profile: TypeAlias = Literal["latency", "balanced", "throughput"]
"""What a server is tuned for: the first token, both, or tokens a second of all texts together."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be served, and how; None leaves it to the server.

    `model` is a file or a folder, which requests call `name`. `slots` texts of up to `context` tokens, prompt included,
    are computed at once, by `threads` threads, in `dtype`, such as "float32". A request needs one of the `keys`, if
    there are any. A number that is given counts more than the one of the `profile`.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    slots: int | None = None
    context: int | None = None
    threads: int | None = None
    dtype: str | None = None
    keys: tuple[str, ...] = ()
    profile: Profile = "balanced"


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """The process of a server.

    `arguments` are the command line, the program first. `environment` are variables beside those of whoever starts it;
    the values of those in `secrets` are shown to nobody. GET of the path `ready` is answered with 200 once the model
    can be asked, and not before. Requests call the model `name`.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    secrets: frozenset[str]
    ready: str
    name: str


class Server(Protocol):
    """Serves a model over an OpenAI-compatible HTTP interface, in a process of its own: contract 2. It starts none."""

    def problems(self, serving: Serving) -> list[Problem]:
        """What this server cannot do with the model or as it is asked to, and what to do: change the model, or take a
        server that can. Empty: `process` serves it, where the server is installed."""
        ...

    def process(self, serving: Serving) -> ServerProcess:
        """The process, for a `serving` without problems."""
        ...

    def missing(self) -> list[Problem]:
        """What this machine lacks to start the server, with the command that installs it."""
        ...
