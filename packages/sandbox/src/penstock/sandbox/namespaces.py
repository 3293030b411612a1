"""Namespaces (`man 7 namespaces`): the machine as a sandboxed program sees it. It has the interpreter and the system's
libraries, read-only; an empty folder of its own in memory; no network, no other processes, no /proc.

The steps are those of one process, the launcher, and of its child, the zygote, in this order: `new_root`,
`become_nobody` (as root only), `new_namespaces`, and after a fork `Tasks`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.sandbox import kernel

BOX = "/box"
"""The folder of the program's own folder. Landlock's rule is for this one: rules do not see the root of a mount that
lies in their way."""
OWN = f"{BOX}/tmp"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_OLD = "/old"


def readable_paths() -> list[str]:
    """What a program may read: the system's libraries, the interpreter and its standard library."""
    interpreter = {sys.base_prefix, sys.base_exec_prefix, os.path.realpath(sys.executable)}
    places = [*_SYSTEM, *sorted({*map(os.path.realpath, interpreter), *interpreter})]
    return [path for path in places if os.path.exists(path)]


def is_root() -> bool:
    """Whether the user is the machine's root, and not that of a container with users of its own."""
    if os.geteuid() != 0:
        return False
    inside, outside, _ = Path("/proc/self/uid_map").read_text().split()[:3]
    return (inside, outside) == ("0", "0")


def new_root() -> int:
    """Moves the process to a root of its own, which begins with what a program may read. Returns a folder to write the
    user map of `new_namespaces` in, since there is no /proc any more."""
    own = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    if is_root():
        kernel.unshare(kernel.CLONE_NEWNS)
    else:
        user, group = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        _map_user(own, user, group)
    sources = {path: os.path.realpath(path) for path in (*readable_paths(), *DEVICES)}
    os.umask(0o022)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=0755")
    os.mkdir(f"/tmp{_OLD}")
    kernel.call("pivot_root", b"/tmp", f"/tmp{_OLD}".encode())
    os.chdir("/")
    for path, source in sources.items():
        _bring(path, source)
    os.makedirs(OWN)
    for path in ("/tmp", "/dev/shm"):
        if not os.path.lexists(path):
            os.symlink(OWN, path)
    kernel.unmount(_OLD)
    os.rmdir(_OLD)
    kernel.protect_mount("/", devices=True)
    return own


def _bring(path: str, source: str) -> None:
    """A file or folder of the old root, at its place and read-only; as a link, if what it leads to is there already."""
    if os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if source != path and os.path.exists(source):
        os.symlink(source, path)
        return
    if os.path.isdir(_OLD + source):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(_OLD + source, path, "", kernel.MS_BIND | kernel.MS_REC)
    kernel.protect_mount(path, devices=path in DEVICES)


def become_nobody(user: int, *capabilities: int) -> None:
    """Gives up root for a user that owns nothing: limits on processes do not hold for root. Keeps the capabilities."""
    if capabilities:
        kernel.keep_capabilities_over_setuid()
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    kernel.keep_only_capabilities(*capabilities)
    kernel.own_proc_files()


def new_namespaces(own: int) -> None:
    """All at once, for the process, except that of processes: only what it forks lives in it. `own` is what `new_root`
    returned."""
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(
        kernel.CLONE_NEWUSER
        | kernel.CLONE_NEWNS
        | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWIPC
        | kernel.CLONE_NEWUTS
        | kernel.CLONE_NEWCGROUP
        | kernel.CLONE_NEWPID
    )
    _map_user(own, user, group)
    os.close(own)


def _map_user(own: int, user: int, group: int) -> None:
    """In a new user namespace, the user is who it was."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        file = os.open(name, os.O_WRONLY, dir_fd=own)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


class Tasks:
    """Namespaces of processes and folders in memory, fresh for each program, made by the first process of
    `new_namespaces`."""

    def __init__(self) -> None:
        self._own = os.pidfd_open(os.getpid())

    @contextmanager
    def folder(self, size: int) -> Iterator[None]:
        """At `OWN`, of at most `size` bytes."""
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("tmpfs", OWN, "tmpfs", flags, f"size={size},nr_inodes=4096,mode=0700")
        try:
            yield
        finally:
            kernel.unmount(OWN)

    def fork(self) -> int:
        """As `os.fork`; the child is the first process of a new namespace, with which all others in it end."""
        kernel.unshare(kernel.CLONE_NEWPID)
        child = -1
        try:
            child = os.fork()
        finally:
            if child != 0:
                kernel.call("setns", self._own, kernel.CLONE_NEWPID)
        return child
