"""The filter of system calls and the rules of Landlock, each alone, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.sandbox import landlock
from penstock.sandbox.syscalls import numbers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")

LOCKED = """
import ctypes, errno, os, socket, sys, threading
from penstock.sandbox import kernel, landlock, seccomp
libc = ctypes.CDLL(None, use_errno=True)
def error_of(way):
    try:
        way()
    except OSError as error:
        return error.errno
    return 0
def error_of_call(number, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0
kernel.no_new_privileges()
"""
FULL = LOCKED + "seccomp.install(seccomp.full_filter())\n"
REDUCED = LOCKED + "seccomp.install(seccomp.reduced_filter(os.getpid()))\n"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


ANSWERS = {
    FULL: {
        "error_of(lambda: kernel.unshare(kernel.CLONE_NEWNET))": "errno.ENOSYS",
        "error_of(lambda: kernel.mount('none', '/', '', 1 << 18))": "errno.ENOSYS",
        "error_of(lambda: kernel.call('clone', kernel.CLONE_NEWUSER | 17, None))": "errno.EPERM",
        "error_of(socket.socket)": "errno.EPERM",
        "error_of(lambda: socket.socket(socket.AF_UNIX))": "0",
        "error_of(socket.socketpair)": "0",
        "error_of(lambda: os.kill(os.getpid(), 0))": "0",
        "os.waitpid(os.fork() or os._exit(0), 0)[1]": "0",
        "error_of_call(0x40000000 | 39)": "errno.ENOSYS",
        "error_of_call(100000)": "errno.ENOSYS",
        "error_of(lambda: kernel.call('prctl', 1, 9, 0, 0, 0))": "errno.EPERM",
        "error_of(lambda: kernel.call('prlimit64', 1, 7, None, None))": "errno.EPERM",
        "error_of(lambda: kernel.call('ioctl', 0, 0x5412, b'x'))": "errno.EPERM",
    },
    REDUCED: {
        "error_of(os.fork)": "errno.EPERM",
        "error_of(lambda: os.execv(sys.executable, ['x']))": "errno.ENOSYS",
        "error_of(lambda: socket.socket(socket.AF_UNIX))": "errno.ENOSYS",
        "error_of(lambda: os.kill(os.getpid(), 0))": "0",
        "error_of(lambda: os.kill(os.getppid(), 0))": "errno.EPERM",
        "error_of(lambda: kernel.call('fcntl', 0, 8, os.getppid()))": "errno.EPERM",
        "error_of(lambda: os.chmod('.', 0o755))": "errno.ENOSYS",
        "[each.start() or each.join() for each in [threading.Thread(target=int)]]": "[None]",
    },
}


@pytest.mark.parametrize("start", ANSWERS, ids=["full", "reduced"])
def test_every_call_has_its_answer(start: str) -> None:
    asked = "".join(
        f"print(repr({found!r}), {found}, {wanted}, sep='\\t')\n" for found, wanted in ANSWERS[start].items()
    )
    done = run(start + asked)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == len(ANSWERS[start])
    assert [call for call, found, wanted in rows if found != wanted] == []


@pytest.mark.skipif("x86_64" not in sys.implementation._multiarch, reason="the 32-bit gate is of x86-64")
def test_the_32_bit_gate_ends_the_process() -> None:
    getpid = "b'\\x53\\xb8\\x14\\0\\0\\0\\xcd\\x80\\x5b\\xc3'"
    gate = f"""
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write({getpid})
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
    assert run(LOCKED + gate).returncode in (0, -11), "the gate itself works, or the kernel has none"
    assert run(FULL + gate).returncode == -31  # SIGSYS


def test_numbers_are_those_of_the_headers() -> None:
    headers = list(Path("/usr/include").glob("*/asm/unistd_64.h")) or list(Path("/usr/include/asm").glob("unistd_64.h"))
    if not headers or "x86_64" not in sys.implementation._multiarch:
        pytest.skip("no header of the kernel for this architecture")
    listed = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", headers[0].read_text()))
    assert {name: int(listed[name]) for name in numbers()} == numbers()


@pytest.mark.skipif(landlock.version() == 0, reason="the kernel has no Landlock")
def test_landlock_allows_what_is_listed_and_no_more(tmp_path: Path) -> None:
    for name in ("readable", "writable", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    program = f"""
os.chdir({str(tmp_path)!r})
rules = landlock.make_rules([sys.base_prefix, "/usr", "/lib", "readable", "missing"], ["writable", "/dev/null"])
landlock.restrict(rules)
assert open("readable/file").read() == open("writable/file").read() == "x"
open("writable/new", "w").write("x")
open("/dev/null", "w").write("x")
os.remove("writable/file")
for refused in (
    lambda: open("hidden/file"), lambda: open("readable/file", "w"), lambda: open("readable/new", "w"),
    lambda: os.listdir("hidden"), lambda: os.rename("readable/file", "writable/moved"), lambda: os.mkdir("hidden/x"),
    lambda: os.truncate("hidden/file", 0) if landlock.version() >= 3 else open("hidden/file"),
):
    assert error_of(refused) == errno.EACCES or error_of(refused) == errno.EXDEV, refused.__code__.co_names
"""
    done = run(LOCKED + program)
    assert done.returncode == 0, done.stderr
