"""Other processes: signals, tracing, and what is left behind."""

from __future__ import annotations

from penstock.sandbox.attacks.attack import Attack

_LATE = "open(OUTSIDE + '/late', 'w').write('x')"

PROCESSES = (
    Attack("kill a process", "os.kill(VICTIM, 9)", gentle=True),
    Attack("stop a process", "os.kill(VICTIM, 19)", gentle=True),
    Attack("stop the parent", "for pid in (os.getppid(), HARNESS): attempt(lambda: os.kill(pid, 19))"),
    Attack("kill everything in reach", "import signal; signal.signal(15, signal.SIG_IGN); os.kill(-1, 15)"),
    Attack("kill the first process", "os.kill(1, 9)"),
    Attack("kill by a group", "for pid in (VICTIM, HARNESS): attempt(lambda: os.killpg(pid, 19))"),
    Attack("trace a process", "LIBC.ptrace(16, VICTIM, None, None)", gentle=True),
    Attack("trace every process in reach", "for pid in range(1, 400): LIBC.ptrace(16, pid, None, None)"),
    Attack(
        "signal by a pidfd",
        """
file = LIBC.syscall(434, VICTIM, 0)
LIBC.syscall(424, file, 19, None, 0)
""",
        gentle=True,
    ),
    Attack("queue a signal", "LIBC.syscall(129, VICTIM, 19, ctypes.create_string_buffer(128))"),
    Attack(
        "signal by way of a pipe's owner",
        """
import fcntl
reading, writing = os.pipe()
fcntl.fcntl(reading, 8, VICTIM)
fcntl.fcntl(reading, 10, 19)
fcntl.fcntl(reading, fcntl.F_SETFL, 0o20000)
os.write(writing, b"x")
time.sleep(0.1)
""",
        gentle=True,
    ),
    Attack("change a process's priority", "os.setpriority(os.PRIO_PROCESS, VICTIM, 19)", gentle=True),
    Attack("move a process to one core", "os.sched_setaffinity(VICTIM, {0})", gentle=True),
    Attack("limit a process", "import resource; resource.prlimit(VICTIM, resource.RLIMIT_NOFILE, (3, 3))", gentle=True),
    Attack(
        "read the memory and the environment of others",
        """
found = ""
for pid in (VICTIM, HARNESS, os.getppid(), 1):
    for name in ("environ", "cmdline", "maps"):
        found += attempt(lambda: open("/proc/%d/%s" % (pid, name), errors="replace").read()) or ""
tell(found)
""",
        gentle=True,
    ),
    Attack("read its own environment", "tell(repr(os.environ))", gentle=True),
    Attack(
        "leave a daemon",
        f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1)
        {_LATE}
    os._exit(0)
""",
        lasting=True,
        gentle=True,
    ),
    Attack(
        "leave a daemon that nothing ends",
        f"""
import signal
for number in range(1, 65):
    attempt(lambda: signal.signal(number, signal.SIG_IGN))
if os.fork() == 0:
    LIBC.prctl(1, 0, 0, 0, 0)
    os.setsid()
    while True:
        attempt(lambda: {_LATE})
        time.sleep(0.2)
""",
        lasting=True,
    ),
    Attack(
        "leave another program",
        """
import subprocess
subprocess.Popen(["/bin/sh", "-c", "sleep 1; echo x > $0/late", OUTSIDE, MARK], start_new_session=True)
""",
        lasting=True,
        gentle=True,
    ),
    Attack(
        "leave a thread", f"import threading; threading.Timer(0.5, lambda: {_LATE}).start()", lasting=True, gentle=True
    ),
    Attack(
        "leave a process for the next program",
        """
import socket
if os.fork() == 0:
    os.setsid()
    server = socket.socket(socket.AF_UNIX)
    server.bind("\\0" + MARK)
    server.listen()
    time.sleep(60)
time.sleep(0.2)
""",
        then="import socket; socket.socket(socket.AF_UNIX).connect('\\0' + MARK); print('FOUND')",
    ),
)
