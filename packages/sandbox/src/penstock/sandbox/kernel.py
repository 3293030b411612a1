"""System calls that Python has no function for. Each raises `OSError`."""

from __future__ import annotations

import ctypes
import os

from penstock.sandbox.syscalls import numbers

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2

CAP_DAC_READ_SEARCH = 2

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
_SIGKILL = 9
_CAPABILITIES_V3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """The system call `name`; bytes and buffers are passed by address."""
    ctypes.set_errno(0)
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = _libc.syscall(ctypes.c_long(numbers()[name]), *passed)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    call("unshare", flags)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())


def unmount(target: str) -> None:
    """Takes a mount away at once, although files of it may be open."""
    call("umount2", target.encode(), MNT_DETACH)


def protect_mount(target: str, *, devices: bool = False) -> None:
    """Makes a mount and all below it read-only, and its set-uid bits void. Device files in it work only with
    `devices`. What the mount forbids already stays forbidden, as it has to in a user namespace."""
    attributes = 0x1 | 0x2 | (0 if devices else 0x4)  # MOUNT_ATTR_RDONLY, _NOSUID, _NODEV
    settings = ctypes.create_string_buffer(attributes.to_bytes(8, "little") + bytes(24), 32)
    call("mount_setattr", _AT_FDCWD, target.encode(), _AT_RECURSIVE, settings, 32)


def die_with_parent() -> None:
    """The kernel forgets it when the process changes its user."""
    call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def own_proc_files() -> None:
    """Gives a process that has changed its user its files in /proc back, such as `uid_map`."""
    call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def no_new_privileges() -> None:
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def keep_capabilities_over_setuid() -> None:
    call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)


def keep_only_capabilities(*kept: int) -> None:
    """Drops all other capabilities of the process, for good unless it executes a file that brings some."""
    bits = sum(1 << each for each in kept)
    header = ctypes.create_string_buffer(_CAPABILITIES_V3.to_bytes(4, "little") + bytes(4), 8)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    sets = b"".join(part.to_bytes(4, "little") for part in (low, low, 0, high, high, 0))
    call("capset", header, ctypes.create_string_buffer(sets, 24))
