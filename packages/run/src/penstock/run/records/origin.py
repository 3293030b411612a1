"""Where a run comes from: `environment.json`, `plugins.lock.json`, and `fork.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.record import ABSENT, Record


@dataclass(frozen=True, slots=True)
class GitState(Record):
    """A repository when the run began; `dirty` says that tracked files had been changed."""

    folder: str = ""
    commit: str = ""
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Environment(Record):
    """Where and how the run was started; training adds `threads` and more when it begins."""

    python: str = ""
    platform: str = ""
    processor: str = ""
    cores: int | None = None
    host: str = ""
    packages: dict[str, str | None] = field(default_factory=lambda: dict[str, str | None]())
    git: GitState | None = None
    seed: int | None = None
    argv: list[str] = field(default_factory=lambda: list[str]())
    command: str = ""
    started: str = ""
    threads: int | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class Fork(Record):
    """The first steps of the run were trained by another one: its folder, how many, and the SHA-256 of the manifest of
    the checkpoint."""

    run: str
    step: int
    manifest: str


@dataclass(frozen=True, slots=True)
class LockedComponent(Record):
    """A component that took part, as locked when the run began."""

    kind: str
    name: str
    distribution: str = ""
    version: str | None = None
    contract: int | str | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class PluginLock(Record):
    """All components of a run."""

    components: list[LockedComponent] = field(default_factory=lambda: list[LockedComponent]())
