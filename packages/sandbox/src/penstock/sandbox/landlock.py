"""Landlock (https://docs.kernel.org/userspace-api/landlock.html): which files a process may touch, for good.

A rule holds for a file or a folder and all below it, mounts included. Everything that the kernel's version of Landlock
knows is refused where no rule allows it: TCP from version 4 on, device ioctls from 5, signals to processes outside and
abstract UNIX sockets of theirs from 6. What no version knows, such as `chmod`, is the seccomp filter's to refuse.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from penstock.sandbox.kernel import call

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_RIGHTS = {1: (1 << 13) - 1, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
"""The rights on files that each version adds."""
_TCP, _SCOPES = 0b11, 0b11
_GET_VERSION = 1
_PATH_BENEATH = 1


def version() -> int:
    """Of the kernel's Landlock; 0 if it has none, or does not use it."""
    try:
        return call("landlock_create_ruleset", None, 0, _GET_VERSION)
    except OSError:
        return 0


def make_rules(readable: Iterable[str], writable: Iterable[str]) -> int:
    """A file descriptor with rules. What is `writable` may be read too, and has no rights to execute. Paths that do not
    exist are left out."""
    known = version()
    files = sum(rights for since, rights in _RIGHTS.items() if since <= known)
    fields = (files, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    attributes = b"".join(field.to_bytes(8, "little") for field in fields)[:size]
    rules = call("landlock_create_ruleset", ctypes.create_string_buffer(attributes, size), size, 0)
    os.set_inheritable(rules, False)
    for path in readable:
        _allow(rules, path, files & _READ)
    for path in writable:
        _allow(rules, path, files & ~_EXECUTE)
    return rules


def restrict(rules: int) -> None:
    """Holds for this process and its children; `no_new_privileges` has to come before."""
    call("landlock_restrict_self", rules, 0)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_A_FILE
        rule = rights.to_bytes(8, "little") + opened.to_bytes(4, "little")
        call("landlock_add_rule", rules, _PATH_BENEATH, ctypes.create_string_buffer(rule, 12), 0)
    finally:
        os.close(opened)
