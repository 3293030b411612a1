"""The run directory: written first and atomically, so that even a run that fails at once leaves its config behind.

runs/<name>/<UTC time>-<hash8>/
    config.input.yaml config.resolved.yaml overrides.txt environment.json plugins.lock.json
    status.json metrics.jsonl checkpoints/ trunk/ trace/ evaluation.json profile.json simulation.json report.html
"""

from __future__ import annotations

import calendar
import errno
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from penstock.hooks import installed
from penstock.hooks.atomic import read_json, sync, sync_files, write_json
from penstock.hooks.config import ConfigDocument, Schema, dump_config, read_config, validate
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run import messages
from penstock.run.config import RESOLVED, RunConfig, digest, read_run_config
from penstock.run.plugin_lock import LOCK, plugin_lock
from penstock.run.records.origin import Environment, GitState
from penstock.run.records.record import read_record, write_record
from penstock.run.records.training import Status

Section = TypeVar("Section", bound=Schema)

_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run on disk."""

    path: Path

    @classmethod
    def create(
        cls, root: Path, config: RunConfig, document: ConfigDocument, overrides: Sequence[str], registry: Registry
    ) -> RunDirectory:
        """Writes a new run directory under `root/<name>/`: whole or not at all."""
        resolved = config.resolved()
        parent = root / config.name
        # Not named by the process id: containers reuse it, and a killed process may leave a folder of that name.
        temporary = parent / f".{digest(resolved)}.{secrets.token_hex(4)}"
        source = Path(document.name)
        try:
            temporary.mkdir(parents=True)
            (temporary / "config.input.yaml").write_text(
                source.read_text(encoding="utf-8") if source.is_file() else dump_config(document.value),
                encoding="utf-8",
            )
            (temporary / RESOLVED).write_text(dump_config(resolved), encoding="utf-8")
            (temporary / "overrides.txt").write_text("".join(f"{item}\n" for item in overrides), encoding="utf-8")
            write_record(temporary / "environment.json", environment(config, source, overrides, registry))
            write_json(temporary / LOCK, {"components": plugin_lock(config)})
            write_record(temporary / "status.json", Status("created"))
            sync_files(temporary)
            path = _appear(temporary, parent, digest(resolved))
            sync(parent)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise ProblemError(
                Problem(
                    "cannot-write",
                    f"cannot write the run directory ({error.strerror})",
                    str(parent),
                    "choose another place with --runs",
                )
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run: `path`, or the newest run in it (see `newest_run`); raises `ProblemError` if it is neither a
        run directory nor a folder of runs."""
        if (path / RESOLVED).is_file():
            return cls(path)
        newest = newest_run(path)
        if newest is None:
            what = "not a run directory, nor a folder of runs" if path.exists() else "run not found"
            raise ProblemError(Problem("not-a-run", what, str(path), "give a run, such as runs/quickstart"))
        messages.note(f"the newest run in {path} is {newest}")
        return cls(newest)

    def config(self, registry: Registry) -> RunConfig:
        try:
            return read_run_config(self.path / RESOLVED, (), registry)[0]
        except ProblemError as error:
            raise ProblemError([self._with_its_plugins(each) for each in error.problems], error.exit_code) from None

    def _with_its_plugins(self, problem: Problem) -> Problem:
        """The problem of an unknown component, with the plugin files that the run was started with."""
        environment = read_record(Environment, self.path / "environment.json")
        if problem.code != "unknown-component" or environment is None:
            return problem
        files = [file for option, file in pairwise(environment.argv) if option == "--plugin"]
        again = shlex.join([word for file in files for word in ("--plugin", file)])
        return replace(problem, fix=f"the run was started with `{again}`: pass it again") if files else problem

    def section(self, name: str, schema: type[Section], registry: Registry) -> Section:
        """The run's settings of one section, or its defaults if the run does not have it. No other part of the config
        is read, so only this section's components need to be installed."""
        path = self.path / RESOLVED
        fields = read_config(path).value.get(name, {})
        return validate(schema, ConfigDocument(fields, {(): f"{path}: {name}"}, str(path)), registry)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock for the one process that may write here; it is released even if the process is killed."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise ProblemError(
                Problem(
                    "run-in-use",
                    "another process is writing to this run",
                    str(self.path),
                    "wait until it finishes, or start a new run",
                )
            ) from None

    @property
    def runs(self) -> Path:
        """The folder of all runs, which also holds the prepared data."""
        return self.path.resolve().parent.parent

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def trace(self, split: str) -> Path:
        return self.path / "trace" / f"{split}.npz"

    def status(self) -> Status:
        """The progress of the run; raises `ProblemError` if its file is damaged."""
        return read_record(Status, self.path / "status.json") or Status()

    def write_status(self, status: Status) -> None:
        write_record(self.path / "status.json", status)

    def record_stage(self, stage: str, seconds: float) -> None:
        """Adds a stage's wall-clock time to `stages.json`."""
        path = self.path / "stages.json"
        write_json(path, {**(read_json(path) if path.exists() else {}), stage: round(seconds, 3)})


def _appear(temporary: Path, parent: Path, digest: str) -> Path:
    """Moves a finished folder to its final name. Names sort in the order in which runs began, whatever the clock does:
    a name is at least a second later than every other, so setting the clock back does not hide the newest run."""
    while True:
        stamps = [path.name.split("-")[0] for path in parent.iterdir() if re.match(r"\d{8}T\d{6}Z-", path.name)]
        newest = calendar.timegm(time.strptime(max(stamps), _STAMP)) if stamps else 0
        path = parent / f"{time.strftime(_STAMP, time.gmtime(max(time.time(), newest + 1)))}-{digest}"
        try:
            return temporary.rename(path)
        except OSError as error:  # another process just took this name
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def is_run(path: Path) -> bool:
    """Whether `RunDirectory.open` finds a run there."""
    if not os.path.isdir(path):  # unlike `Path.is_dir`, False for a name that is too long
        return False
    return (path / RESOLVED).is_file() or newest_run(path) is not None


def newest_run(folder: Path) -> Path | None:
    """Of a folder of runs, such as `runs/quickstart`, the newest that has a checkpoint, or else the newest."""
    runs = sorted(config.parent for config in folder.glob(f"[!.]*/{RESOLVED}"))
    trained = [run for run in runs if any(run.glob("checkpoints/step-*"))]
    return (trained or runs or [None])[-1]


# ---------------------------------------------------------------------------------------------- what a run depends on


def environment(config: RunConfig, source: Path, overrides: Sequence[str], registry: Registry) -> Environment:
    """Versions, source state, seed and host: what the run's bits depend on, and the command that starts it again."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        host=platform.node(),
        packages={**installed.versions()},
        git=_git(Path(__file__), source),
        seed=config.seed,
        argv=list(sys.argv),
        command=_command(source, overrides, registry),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _command(source: Path, overrides: Sequence[str], registry: Registry) -> str:
    """The command line to start the run again: this process's own, or that of `train` if this is not `penstock`."""
    ours = Path(sys.argv[0]).name == "penstock" or sys.argv[0].endswith("penstock/cli/__main__.py")
    train = [*registry.selection.arguments(), "train", str(source), *overrides]
    return shlex.join(["penstock", *(sys.argv[1:] if ours else train)])


def _git(*files: Path) -> GitState | None:
    """State of the git repository of the first tracked file among these: penstock's source if it runs from a clone,
    else the config's repository; None if neither is tracked."""
    return next(filter(None, map(_repository_of, files)), None)


def _repository_of(file: Path) -> GitState | None:
    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(file.resolve().parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", file.name)
        return GitState(
            folder=ask("rev-parse", "--show-toplevel"),
            commit=ask("rev-parse", "HEAD"),
            dirty=bool(ask("status", "--porcelain", "--untracked-files=no")),
        )
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


@contextmanager
def stage(run: RunDirectory, name: str) -> Iterator[None]:
    """Records the duration of the stage in the run's status once it is done."""
    begun = time.perf_counter()
    yield
    run.record_stage(name, time.perf_counter() - begun)
