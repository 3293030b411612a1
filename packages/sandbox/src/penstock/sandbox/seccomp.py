"""Which system calls a sandboxed program may make: a list, and nothing else.

The filter is classic BPF over `struct seccomp_data` (number, architecture, address, six arguments). Calls of another
architecture end the process. Those of the x32 range and all that the list lacks fail with ENOSYS: the C library then
falls back to older calls. A listed call with other arguments fails with EPERM. Only the lower 32 bits of an argument
are looked at: the kernel looks at no more of those that are checked here.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.sandbox.kernel import call
from penstock.sandbox.syscalls import AUDIT_ARCHITECTURE, numbers

ALWAYS = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile copy_file_range
open openat close close_range dup dup2 dup3 pipe pipe2 eventfd eventfd2 fsync fdatasync ftruncate truncate fallocate
fadvise64 stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents
getdents64 getcwd chdir fchdir umask mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink
symlinkat
mmap mprotect munmap mremap madvise brk msync membarrier
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigpending sigaltstack pause restart_syscall
getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid
exit exit_group wait4 waitid futex futex_waitv set_robust_list set_tid_address rseq arch_prctl
nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getrusage getrlimit setrlimit getpriority
timer_create timer_settime timer_gettime timer_delete timer_getoverrun setitimer getitimer alarm
timerfd_create timerfd_settime timerfd_gettime
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
getrandom sysinfo uname sched_yield sched_getaffinity getcpu
"""
"""What an interpreter and its libraries need. Landlock decides which files they reach."""

IN_NAMESPACES = """
fork vfork execve kill tgkill setsid setpgid chmod fchmod fchmodat utime utimes utimensat mknod mknodat
bind listen accept accept4 connect getsockname getpeername sendto recvfrom sendmsg recvmsg shutdown setsockopt
getsockopt
"""
"""What reaches nothing outside where the processes, the files and the network are the program's own."""

_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET
_CLONE_THREAD = 0x00010000
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_AF_UNIX = 1
_SIGNAL_SETTINGS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: input would send signals to any process of the user
_TYPED = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: would type into a terminal


@dataclass(frozen=True, slots=True)
class Argument:
    """What one argument of a call has to be: `one_of` these values, or none of `not_one_of`, with all of the bits `has`
    and none of the bits `lacks`."""

    index: int
    one_of: tuple[int, ...] = ()
    not_one_of: tuple[int, ...] = ()
    has: int = 0
    lacks: int = 0


@functools.cache
def full_filter() -> bytes:
    """For a program in namespaces of its own."""
    conditions = {
        **_conditions(),
        "clone": Argument(0, lacks=_NAMESPACE_FLAGS),
        "socket": Argument(0, one_of=(_AF_UNIX,)),
        "socketpair": Argument(0, one_of=(_AF_UNIX,)),
    }
    return program((*ALWAYS.split(), *IN_NAMESPACES.split()), conditions)


def reduced_filter(own_pid: int) -> bytes:
    """For a program among the processes of the machine: no sockets, no other programs, no processes but threads, and
    signals to itself alone."""
    conditions = {
        **_conditions(),
        "clone": Argument(0, has=_CLONE_THREAD, lacks=_NAMESPACE_FLAGS),
        "kill": Argument(0, one_of=(own_pid,)),
        "tgkill": Argument(0, one_of=(own_pid,)),
        "fcntl": Argument(1, not_one_of=_SIGNAL_SETTINGS),
    }
    return program(ALWAYS.split(), conditions)


def _conditions() -> dict[str, Argument]:
    return {
        "prctl": Argument(0, one_of=(_PR_SET_NAME, _PR_GET_NAME)),
        "prlimit64": Argument(0, one_of=(0,)),
        "ioctl": Argument(1, not_one_of=_TYPED),
        "fcntl": Argument(1),
    }


def install(filter_program: bytes) -> None:
    """Holds for this process and its children; `no_new_privileges` has to come before."""
    instructions = ctypes.create_string_buffer(filter_program, len(filter_program))
    described = (len(filter_program) // 8).to_bytes(8, "little") + ctypes.addressof(instructions).to_bytes(8, "little")
    call("seccomp", _SET_MODE_FILTER, 0, ctypes.create_string_buffer(described, 16))


_SET_MODE_FILTER = 1
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x40000000


def program(allowed: Iterable[str], conditions: Mapping[str, Argument], *, refused: int = errno.ENOSYS) -> bytes:
    """The filter's instructions. Calls that this architecture does not have are left out. `refused` is the error of
    calls that are not listed."""
    known = numbers()
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, AUDIT_ARCHITECTURE[platform.machine()], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_JUMP_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, _ERROR | errno.ENOSYS),
    ]
    for first, last in _ranges(known[name] for name in allowed if name in known and name not in conditions):
        code += [
            _instruction(_JUMP_AT_LEAST, first, 0, 2),
            _instruction(_JUMP_AT_LEAST, last + 1, 1, 0),
            _instruction(_RETURN, _ALLOW),
        ]
    for name, argument in conditions.items():
        if name in known:
            body = _checked(argument)
            code += [_instruction(_JUMP_EQUAL, known[name], 0, len(body)), *body]
    return b"".join([*code, _instruction(_RETURN, _ERROR | refused)])


def _ranges(values: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run of numbers. The kernel tries a filter on every call when it is installed: with a
    comparison for each allowed call, that took a millisecond of each program."""
    ranges: list[tuple[int, int]] = []
    for value in sorted(set(values)):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], value)
        else:
            ranges.append((value, value))
    return ranges


def _checked(argument: Argument) -> list[bytes]:
    """Ends the filter: allowed if the argument is as it has to be, else EPERM."""
    refuse = _instruction(_RETURN, _ERROR | errno.EPERM)
    body = [_instruction(_LOAD, _ARGUMENTS_AT + 8 * argument.index)]
    for value in argument.not_one_of:
        body += [_instruction(_JUMP_EQUAL, value, 0, 1), refuse]
    if argument.lacks:
        body += [_instruction(_JUMP_ANY_BIT, argument.lacks, 0, 1), refuse]
    if argument.has:
        body += [_instruction(_AND, argument.has), _instruction(_JUMP_EQUAL, argument.has, 1, 0), refuse]
    for value in argument.one_of:
        body += [_instruction(_JUMP_EQUAL, value, 0, 1), _instruction(_RETURN, _ALLOW)]
    return [*body, refuse if argument.one_of else _instruction(_RETURN, _ALLOW)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((if_true, if_false)) + value.to_bytes(4, "little")
