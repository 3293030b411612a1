"""Asks several processes at once, as torchrun starts the ranks of one machine, and pays for their imports once.

A server process imports what the question needs and forks every rank from itself: a pair of ranks costs a tenth of a
second instead of the seconds that an import of torch takes, and yet each begins with nothing but imports, at a
rendezvous of its own. Ranks that outlive their limit are killed, and say where they were.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import importlib.util
import itertools
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import IO, Any

from penstock.conformance.law import Violation, expect
from penstock.hooks.registry import Choice

LIMIT = 120.0  # seconds that ranks have, of which the first pay for imports: a hang is a failure
SHARED_BY_RANKS = {"several-ranks", "sharded"}  # capabilities
Ask = Callable[[Choice], Any]  # a function of a module, or a partial of one

_SERVER = """
import sys
sys.path[:] = {path!r}
from penstock.conformance.ranks import serve
serve()
"""


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How a rank ended: its exit status (negative: the signal that killed it), what it answered, and its stderr."""

    status: int
    answer: Any
    error: str

    def __str__(self) -> str:
        how = f"was killed by {signal.Signals(-self.status).name}" if self.status < 0 else "fails"
        return f"{how}: {self.error[-400:]}" if self.error else how


def told_by_ranks(ask: Ask, choice: Choice, ranks: int, seconds: float = LIMIT) -> list[Any]:
    """What `ask` returns on each of some ranks, which can be pickled. Raises `Violation` where one raises or dies, and
    where they have not ended in so many seconds."""
    ends = ranks_asked(ask, choice, ranks, seconds)
    for rank, end in enumerate(ends):
        expect(end.status == 0, f"rank {rank} {end}")
    return [end.answer for end in ends]


def ranks_asked(ask: Ask, choice: Choice, ranks: int, seconds: float = LIMIT) -> list[RankEnd]:
    """How each of some ranks ends that calls `ask`. Raises `Violation` where they have not ended in so many seconds."""
    ends = _server().ask(_Question((ask, choice), torchrun_variables(ranks), seconds))
    late = [f"rank {rank} {_place(end.error)}" for rank, end in enumerate(ends) if end.status == _TOO_LATE]
    expect(not late, f"{ranks} ranks have not ended within {seconds:.0f} s: {', '.join(late)}")
    return ends


def torchrun_variables(ranks: int) -> list[dict[str, str]]:
    """What torchrun tells each rank of one machine by environment variables, with a port that is free."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _place(stacks: str) -> str:
    """The innermost function that the main thread's stack of faulthandler names, and its caller."""
    main = stacks.rpartition("Thread 0x")[2]  # which is the last one
    inner = re.findall(r'File "(\S+)", line (\d+) in (\w+)', main)
    return f"hangs in {' of '.join(f'{name} ({os.path.basename(file)}:{line})' for file, line, name in inner[:2])}"


# ---------------------------------------------------------------------------------------------- the client


@dataclass(frozen=True, slots=True)
class _Question:
    """`asked` is the function and its argument; each rank has environment variables of its own."""

    asked: tuple[Ask, Choice]
    variables: Sequence[Mapping[str, str]]
    seconds: float


class _Server:
    """The client's side of the process that ranks are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        atexit.register(self._process.communicate)  # at the end of its input it ends

    def ask(self, question: _Question) -> list[RankEnd]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        files = _files_of(question.asked[0])
        settings = (list(sys.path), dict(os.environ), files, question.variables, question.seconds)
        try:
            pickle.dump((settings, pickle.dumps(question.asked)), self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, OSError) as error:
            _server.cache_clear()
            raise Violation("the process that ranks are forked from has died: what it imports ended it") from error


def _files_of(ask: Ask) -> dict[str, str]:
    """Files of the modules that the question's functions are from. A test runner imports modules by their files, and
    another process may not find them by name."""
    functions: list[Any] = [ask.func, *ask.args, *ask.keywords.values()] if isinstance(ask, partial) else [ask]
    modules = {str(getattr(each, "__module__", None)) for each in functions if callable(each)}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return {name: file for name, file in files.items() if file is not None}


@cache  # one for all laws and engines of this process
def _server() -> _Server:
    return _Server()


# ---------------------------------------------------------------------------------------------- the server

_TOO_LATE = 75


def serve() -> None:
    """Reads a question at a time from stdin, and answers with the end of each rank."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an import prints is not an answer
    while True:
        try:
            (path, environment, files, variables, seconds), asked = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        sys.path[:] = path
        _import_files(files)
        _import_for(asked)
        started = [_Rank({**environment, **own}, asked, seconds) for own in variables]
        pickle.dump([rank.end() for rank in started], answers)
        answers.flush()
        for rank in started:
            _import(rank.imported())


def _import_files(files: Mapping[str, str]) -> None:
    """Imports modules by name, or by file where the name is not found."""
    _import(list(files))
    for name, file in files.items():
        spec = importlib.util.spec_from_file_location(name, file)
        if name in sys.modules or spec is None or spec.loader is None:
            continue
        for package in itertools.accumulate(name.split(".")[:-1], "{}.{}".format):  # which pickle asks for too
            sys.modules.setdefault(package, ModuleType(package))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        with contextlib.suppress(Exception):  # ranks report what is missing
            spec.loader.exec_module(sys.modules[name])


def _import_for(asked: bytes) -> None:
    """Ranks find imported what they need. What cannot be imported is theirs to report."""
    with contextlib.suppress(Exception):
        _, choice = pickle.loads(asked)
        _import([choice.entry.component.target.partition(":")[0]])
        if choice.entry.component.capabilities & SHARED_BY_RANKS:
            _import(["torch._dynamo"])  # torch does, for its optimizers and for cut tensors, and it takes seconds


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # some are made, not imported
                importlib.import_module(name)


class _Rank:
    """A forked process that answers, from its start to its end."""

    def __init__(self, environment: Mapping[str, str], asked: bytes, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds + 5  # it ends itself before, and leaves its stack
        self._answer, self._error, self._imported = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115
        self._pid = os.fork()
        if self._pid == 0:
            _answer(environment, asked, seconds, self._answer, self._error, self._imported)

    def end(self) -> RankEnd:
        while not (ended := os.waitpid(self._pid, os.WNOHANG))[0]:
            if time.monotonic() > self._deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.002)
        error = _read(self._error).decode(errors="replace")
        status = os.waitstatus_to_exitcode(ended[1])
        late = status != 0 and "Timeout (" in error
        answer = pickle.loads(_read(self._answer)) if status == 0 else None
        return RankEnd(_TOO_LATE if late else status, answer, error)

    def imported(self) -> list[str]:
        """What it had to import: other ranks find it imported."""
        return _read(self._imported).decode().split()


def _answer(
    environment: Mapping[str, str],
    asked: bytes,
    seconds: float,
    answer: IO[bytes],
    error: IO[bytes],
    imported: IO[bytes],
) -> None:
    """A rank's life, which ends here."""
    status, known = 1, set(sys.modules)
    try:
        os.dup2(error.fileno(), 1)
        os.dup2(error.fileno(), 2)
        faulthandler.dump_traceback_later(seconds, exit=True, file=error)
        os.environ.clear()
        os.environ.update(environment)
        ask, choice = pickle.loads(asked)
        pickle.dump(ask(choice), answer)
        answer.flush()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        imported.write("\n".join(sys.modules.keys() - known).encode())
        imported.flush()
        os._exit(status)


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
