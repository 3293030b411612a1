"""Machines that give less: each is made for real, in a process of its own, and says what is missing and what helps."""

import platform
import subprocess
import sys

import pytest

from penstock.hooks.problems import ProblemError
from penstock.sandbox.sandbox import Sandbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")

NO_NAMESPACES = """
import os
from penstock.sandbox import kernel
user, group = os.geteuid(), os.getegid()
wide = 65536 if user == 0 else 1
kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
if user:
    open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"{user} {user} {wide}")
open("/proc/self/gid_map", "w").write(f"{group} {group} {wide}")
open("/proc/sys/user/max_user_namespaces", "w").write("0")
"""
"""No further user namespaces, as `sysctl user.max_user_namespaces=0`."""

REFUSED = """
import errno, platform
from penstock.sandbox import kernel, seccomp, syscalls
number = syscalls.numbers()
code = [seccomp._instruction(seccomp._LOAD, 0)]
for name in {names}:
    code += [seccomp._instruction(seccomp._JUMP_EQUAL, number[name], 0, 1)]
    code += [seccomp._instruction(seccomp._RETURN, seccomp._ERROR | errno.{error})]
kernel.no_new_privileges()
seccomp.install(b"".join([*code, seccomp._instruction(seccomp._RETURN, seccomp._ALLOW)]))
"""
"""A container's filter, or a kernel without these calls."""
DOCKER = REFUSED.format(names=["unshare", "mount", "setns"], error="EPERM")
NO_LANDLOCK = REFUSED.format(names=["landlock_create_ruleset", "landlock_restrict_self"], error="ENOSYS")

TRY = """
import sys
from penstock.hooks.problems import ProblemError
from penstock.sandbox.sandbox import Sandbox
for level in ("full", "reduced", "none"):
    try:
        with Sandbox(level) as sandbox:
            print(level, sandbox.run("print(1)").outcome)
    except ProblemError as error:
        print(level, error)
"""


def levels_of(machine: str) -> dict[str, str]:
    """What each level says there."""
    done = subprocess.run([sys.executable, "-c", machine + TRY], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"such a machine cannot be made here: {done.stderr.splitlines()[-1]}")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@linux
def test_this_machine_has_every_level_or_says_what_is_missing() -> None:
    for level, said in levels_of("").items():
        assert said == "passed" or "level" in said, level


@linux
def test_without_namespaces_the_sysctl_is_named() -> None:
    said = levels_of(NO_NAMESPACES)
    assert "level 'full': user namespaces are used up or switched off" in said["full"]
    assert "sysctl -w user.max_user_namespaces=10000, or accept less with --sandbox reduced" in said["full"]
    assert (said["reduced"], said["none"]) == ("passed", "passed")


@linux
def test_a_containers_filter_is_named_and_reduced_still_works() -> None:
    said = levels_of(DOCKER)
    assert "a container's filter refuses namespaces" in said["full"]
    assert "docker run --security-opt seccomp=unconfined" in said["full"]
    assert (said["reduced"], said["none"]) == ("passed", "passed")


@linux
def test_without_landlock_there_is_neither_full_nor_reduced() -> None:
    said = levels_of(NO_LANDLOCK)
    for level in ("full", "reduced"):
        assert "the kernel's Landlock is missing or too old" in said[level]
        assert "lsm=landlock" in said[level]
    assert said["reduced"].endswith("or accept less with --unsafe-code-execution")
    assert said["none"] == "passed"


@pytest.mark.parametrize("level", ["full", "reduced"])
def test_macos_is_told_to_use_a_container(level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(ProblemError, match=r"isolation needs Linux, and this is macOS.*Linux container"):
        Sandbox(level)


@pytest.mark.parametrize("level", ["full", "reduced"])
def test_an_unknown_architecture_is_named(level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ProblemError, match="does not know the architecture riscv64"):
        Sandbox(level)
