"""Bait outside of a sandbox, and what has been done to it."""

from __future__ import annotations

import ctypes
import os
import resource
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_HEADER = """
import ctypes, os, sys, time
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.prctl(15, MARK.encode())
class Told(BaseException): pass
def tell(text):
    print(text)
    raise Told(text)
def attempt(way):
    try: return way()
    except Exception: return None
"""
_CROWD, _MEMORY = 64, 1 << 30
"""More processes and bytes at once than any limits of the suite give a program."""
_IPC_CREAT, _IPC_RMID, _IPC_NOWAIT = 0o1000, 0, 0o4000


@dataclass(frozen=True, slots=True)
class Seen:
    """What a harness says of a program: whether it passed, everything that it repeats of it, and the seconds that it
    took."""

    passed: bool
    text: str
    seconds: float


class Outside:
    """Lays out bait: files, a process, sockets, System V IPC, a secret in the environment. `effects` looks at it, and
    lays out again what is gone. A kind of bait that the machine refuses, as a sandbox does, is left out."""

    def __init__(self, folder: Path | None = None) -> None:
        self.secret, self.mark = secrets.token_hex(16), f"mark{secrets.token_hex(4)}"
        self.folder = Path(folder or tempfile.mkdtemp(prefix="penstock-bait-"))
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o777)
        os.environ["PENSTOCK_BAIT"] = self.secret
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.shmat.restype = ctypes.c_void_p
        self._lay_out_files()
        self._victim = self._start_victim()
        self._sockets = list(self._open_sockets())
        self.port = next((each.getsockname()[1] for each in self._sockets if each.family == socket.AF_INET), 0)
        self._key = int.from_bytes(secrets.token_bytes(3), "little") + 1
        self._shared = self._libc.shmget(self._key, 4096, _IPC_CREAT | 0o666)
        self._queue = self._libc.msgget(self._key, _IPC_CREAT | 0o666)
        self._clock, self._host = time.time() - time.monotonic(), socket.gethostname()
        self._own = self._settings(os.getpid())
        self._crowd = _Crowd(self.mark)

    def header(self) -> str:
        """The names that programs know the bait by."""
        names = {
            "OUTSIDE": str(self.folder),
            "MARK": self.mark,
            "VICTIM": self._victim.pid,
            "HARNESS": os.getpid(),
            "PORT": self.port,
            "KEY": self._key,
        }
        return "".join(f"{name} = {value!r}\n" for name, value in names.items()) + _HEADER

    def effects(self, seen: Seen, *, fails: bool, seconds: float) -> list[str]:
        """What an attack has done, in words. `fails`: its tests fail. `seconds` is what the harness may take for it."""
        found = [
            *self._file_effects(),
            *self._process_effects(),
            *self._system_effects(),
            *self._crowd.effects(),
        ]
        if self.secret in seen.text:
            found.append("a secret was told")
        if fails and seen.passed:
            found.append("a failing program passed")
        if seen.seconds > seconds:
            found.append(f"the harness took {seen.seconds:.0f} seconds")
        if len(seen.text) > 4 << 20:
            found.append("the harness kept more than 4 MB of output")
        return found

    def close(self) -> None:
        self._crowd.close()
        self._victim.kill()
        self._victim.wait()
        for each in self._sockets:
            each.close()
        self._libc.shmctl(self._shared, _IPC_RMID, None)
        self._libc.msgctl(self._queue, _IPC_RMID, None)
        shutil.rmtree(self.folder, ignore_errors=True)
        del os.environ["PENSTOCK_BAIT"]

    def _lay_out_files(self) -> None:
        home = self.folder / "home" / ".ssh"
        home.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / "secret", self.folder / "target", home / "id_rsa"):
            path.write_text("x" if path.name == "target" else self.secret)
            path.chmod(0o666)
        self._files = self._listing()

    def _listing(self) -> dict[str, tuple[int, int, int]]:
        """Mode, size and time of every file, except that of folders."""
        listed = {}
        for path in self.folder.rglob("*"):
            status = path.lstat()
            changing = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
            listed[str(path)] = (status.st_mode, *changing)
        listed.pop(str(self.folder / "socket"), None)
        return listed

    def _file_effects(self) -> Iterator[str]:
        now = self._listing()
        changed = {path for path in now.keys() | self._files.keys() if now.get(path) != self._files.get(path)}
        for path in changed:
            yield f"{Path(path).relative_to(self.folder)} was changed"
            with suppress(OSError):
                shutil.rmtree(path) if Path(path).is_dir() else os.remove(path)
        if changed:
            self._lay_out_files()
        for folder in ("/tmp", "/dev/shm", os.path.dirname(os.__file__)):
            for path in Path(folder).glob(f"{self.mark}*"):
                path.unlink()
                yield f"{path} was written"

    def _start_victim(self) -> subprocess.Popen[bytes]:
        sleep = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]
        return subprocess.Popen(sleep, start_new_session=True)

    def _settings(self, pid: int) -> tuple[object, ...]:
        """Priority, cores and limits, as far as they may be asked for."""
        found: list[object] = [os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid)]
        with suppress(OSError):
            found.append(resource.prlimit(pid, resource.RLIMIT_NOFILE))
        return tuple(found)

    def _process_effects(self) -> Iterator[str]:
        ended, _ = os.waitpid(self._victim.pid, os.WNOHANG | os.WUNTRACED)
        if ended or self._settings(self._victim.pid) != self._own:
            yield "the process outside was ended, stopped or changed"
            with suppress(ProcessLookupError):
                os.kill(self._victim.pid, 9)
            with suppress(ChildProcessError):
                os.waitpid(self._victim.pid, 0)
            self._victim = self._start_victim()
        if self._settings(os.getpid()) != self._own:
            yield "the harness was changed"

    def _open_sockets(self) -> Iterator[socket.socket]:
        """One TCP and one UDP socket of the same port, and two UNIX sockets."""
        with suppress(OSError):
            tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            udp.bind(tcp.getsockname())
            yield from (tcp, udp)
        for address in (str(self.folder / "socket"), f"\0{self.mark}"):
            with suppress(OSError):
                local = socket.socket(socket.AF_UNIX)
                local.bind(address)
                local.listen()
                yield local
        with suppress(OSError):
            os.chmod(self.folder / "socket", 0o777)

    def _system_effects(self) -> Iterator[str]:
        reached, _, _ = select.select(self._sockets, [], [], 0)
        for each in reached:
            yield f"a socket was reached ({each.family.name}, {each.type.name})"
            each.recv(16) if each.type == socket.SOCK_DGRAM else each.accept()[0].close()
        if self._shared >= 0 and not self._shared_memory_is_blank():
            yield "shared memory was written or removed"
        message = ctypes.create_string_buffer(16)
        if self._queue >= 0 and self._libc.msgrcv(self._queue, message, 8, 0, _IPC_NOWAIT) >= 0:
            yield "a message was queued"
        if abs(time.time() - time.monotonic() - self._clock) > 600:
            yield "the clock was set"
        if socket.gethostname() != self._host:
            yield "the machine was named"

    def _shared_memory_is_blank(self) -> bool:
        address = self._libc.shmat(self._libc.shmget(self._key, 0, 0), None, 0o10000)
        if address in (None, 2**64 - 1):  # -1
            return False
        blank = ctypes.string_at(address, 1) == b"\0"
        self._libc.shmdt(ctypes.c_void_p(address))
        return blank


class _Crowd(threading.Thread):
    """Watches the processes that bear the mark, in their name or on their command line, until it is closed."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self._mark, self._page = mark, os.sysconf("SC_PAGESIZE")
        self._most, self._memory, self._closed = 0, 0, False
        self.start()

    def run(self) -> None:
        while not self._closed:
            found = list(self._marked())
            self._most = max(self._most, len(found))
            self._memory = max(self._memory, sum(size for _, size in found))
            time.sleep(0.1)

    def effects(self) -> Iterator[str]:
        most, memory, self._most, self._memory = self._most, self._memory, 0, 0
        if most > _CROWD:
            yield f"{most} processes at once"
        if memory > _MEMORY:
            yield f"{memory >> 20} MB at once"
        for pid in {pid for pid, _ in self._marked()}:
            yield f"process {pid} was left"
            with suppress(ProcessLookupError):
                os.kill(pid, 9)

    def close(self) -> None:
        self._closed = True
        self.join()

    def _marked(self) -> Iterator[tuple[int, int]]:
        """The process id and the bytes of each marked process, once for each of its threads. Without /proc it finds
        nothing."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                name, command = (entry / "comm").read_text(), (entry / "cmdline").read_bytes()
                if self._mark in name or self._mark.encode() in command:
                    size = int((entry / "statm").read_text().split()[1]) * self._page
                    threads = len(os.listdir(entry / "task"))
                    yield from [(int(entry.name), size // threads)] * threads
