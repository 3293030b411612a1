"""Why a machine does not give a level of isolation, and the line that helps."""

from __future__ import annotations

import errno
import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.hooks.problems import Problem
from penstock.sandbox.syscalls import known_machine
from penstock.sandbox.verdict import Level

_LESS = {"full": "--sandbox reduced", "reduced": "--unsafe-code-execution"}
"""What a user says to accept the next lower level."""
_DOCKER = "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
_FILES = 24
"""Descriptors that a zygote and its programs use, and a few more."""
_SYSCTLS = {
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,`",
    ),
    "kernel/unprivileged_userns_clone": ("0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    "user/max_user_namespaces": ("0", "sysctl -w user.max_user_namespaces=10000"),
}
"""A setting in /proc/sys, the value of it that refuses namespaces, and the line that changes it."""


def foreign_machine() -> Problem | None:
    """What is wrong where no level but `none` is to be had; None on Linux."""
    if platform.system() != "Linux":
        system = {"Darwin": "macOS"}.get(platform.system(), platform.system())
        fix = f"run it in a Linux container ({_DOCKER}), or accept none with --unsafe-code-execution"
        return Problem("no-sandbox", f"isolation needs Linux, and this is {system}", "sandbox", fix)
    if not known_machine():
        what = f"the filter of system calls does not know the architecture {platform.machine()}"
        fix = "use x86-64 or arm64, or accept none with --unsafe-code-execution"
        return Problem("no-sandbox", what, "sandbox", fix)
    return None


def unreached(level: Level, answer: Mapping[str, Any]) -> Problem:
    """From a zygote's answer: the `step` that failed, its `errno`, and the `error` in words."""
    step, code = answer["step"], int(answer["errno"] or 0)
    scarce = _scarce(step, code)
    missing, remedy = scarce or _explained(step, code)
    less = f", or accept less with {_LESS[level]}" if level in _LESS and not scarce else ""
    return Problem("no-sandbox", f"level '{level}': {missing} ({answer['error']})", "sandbox", f"{remedy}{less}")


def _explained(step: str, code: int) -> tuple[str, str]:
    """What of the isolation is missing, and what helps."""
    if step == "landlock":
        need = "a kernel with Landlock, 5.13 or newer, for level reduced 6.7, whose boot line has lsm=landlock,..."
        return "the kernel's Landlock is missing or too old", f"boot {need}"
    if step == "user":
        return "root cannot become an ordinary user", "start it as an ordinary user, or map the users 61184 to 65279"
    if step == "lock":
        return "a program cannot be locked in", "boot a kernel with seccomp filters"
    if code in (errno.ENOSPC, errno.EUSERS):
        return "user namespaces are used up or switched off", _SYSCTLS["user/max_user_namespaces"][1]
    if _filtered():
        return "a container's filter refuses namespaces", f"start the container with {_DOCKER}"
    lines = (line for name, (value, line) in _SYSCTLS.items() if _setting(name) == value)
    return "namespaces are refused", next(lines, f"in a container: {_DOCKER}")


def _scarce(step: str, code: int) -> tuple[str, str] | None:
    """What is missing at any level, and what helps."""
    if code in (errno.EMFILE, errno.ENFILE) or _most_files() < _FILES:
        return "there are too few file descriptors", "raise their number with `ulimit -n 1024`"
    if step == "empty":
        return "an empty program does not pass", "raise the limits"
    if step == "start" and code in (errno.EACCES, errno.ENOENT, errno.ENOEXEC):
        return f"the interpreter {sys.executable} cannot be run", "make it readable and executable for this user"
    if step == "start":
        return "its process ended", "look into the system's log, for want of memory say"
    return None


def _most_files() -> float:
    """The limit on file descriptors of this process and of those that it starts."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if most == resource.RLIM_INFINITY else most


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""


def _filtered() -> bool:
    """Whether a seccomp filter holds for this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.split() == ["Seccomp:", "2"] for line in lines)
