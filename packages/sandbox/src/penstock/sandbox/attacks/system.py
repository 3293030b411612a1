"""The network, and calls to the kernel."""

from __future__ import annotations

from penstock.sandbox.attacks.attack import Attack

SYSTEM = (
    Attack("connect by TCP", "import socket; socket.create_connection(('127.0.0.1', PORT), 2).send(b'x')"),
    Attack("send by UDP", "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))"),
    Attack(
        "connect by TCP to every address of the machine",
        """
import socket
for address in ("::1", "0.0.0.0", "localhost", socket.gethostname()):
    attempt(lambda: socket.create_connection((address, PORT), 2).send(b"x"))
""",
    ),
    Attack("connect to a UNIX socket", "import socket; socket.socket(socket.AF_UNIX).connect(OUTSIDE + '/socket')"),
    Attack("connect to an abstract UNIX socket", "import socket; socket.socket(socket.AF_UNIX).connect('\\0' + MARK)"),
    Attack(
        "connect by a call of one's own",
        """
import struct
file = LIBC.syscall(41, 2, 1, 0)
LIBC.syscall(42, file, struct.pack("<H", 2) + struct.pack(">H", PORT) + bytes((127, 0, 0, 1)) + bytes(8), 16)
""",
    ),
    Attack(
        "connect in namespaces of another process",
        """
import socket
for pid in (VICTIM, HARNESS, 1):
    LIBC.setns(LIBC.syscall(434, pid, 0), 0x40000000)
socket.create_connection(("127.0.0.1", PORT), 2).send(b"x")
""",
    ),
    Attack(
        "write to shared memory of the machine",
        """
LIBC.shmat.restype = ctypes.c_void_p
address = LIBC.shmat(LIBC.shmget(KEY, 0, 0o600), None, 0)
if address not in (None, 2**64 - 1):
    ctypes.memmove(address, b"x", 1)
""",
    ),
    Attack(
        "send to a message queue of the machine", "LIBC.msgsnd(LIBC.msgget(KEY, 0), bytes((1,)) + bytes(15), 8, 0o4000)"
    ),
    Attack("remove shared memory of the machine", "LIBC.shmctl(LIBC.shmget(KEY, 0, 0), 0, None)"),
    Attack(
        "set the clock",
        """
later = int(time.time()) + 7200
LIBC.clock_settime(0, later.to_bytes(8, "little") + bytes(8))
LIBC.settimeofday(later.to_bytes(8, "little") + bytes(8), None)
""",
    ),
    Attack("name the machine", "LIBC.unshare(0x10000000); LIBC.sethostname(MARK.encode(), len(MARK))"),
    Attack(
        "call by the x32 range",
        """
X32 = 0x40000000
LIBC.syscall(X32 | 62, VICTIM, 19)
file = LIBC.syscall(X32 | 2, (OUTSIDE + "/new").encode(), os.O_WRONLY | os.O_CREAT, 0o600)
""",
    ),
    Attack(
        "call by the 32-bit gate",
        """
import mmap, platform
if platform.machine() == "x86_64":
    code = b"\\x53\\xb8%s\\xbb%s\\xb9%s\\xcd\\x80\\x5b\\xc3" % tuple(n.to_bytes(4, "little") for n in (37, VICTIM, 19))
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
""",
    ),
    Attack(
        "leave a key in a keyring for the next program",
        "LIBC.syscall(248, b'user', MARK.encode(), b'x', 1, -4)",
        then="print('FOUND' * (LIBC.syscall(249, b'user', MARK.encode(), None, 0) > 0))",
    ),
    Attack(
        "become root",
        """
for call in ("setuid", "setgid", "setfsuid"):
    getattr(LIBC, call)(0)
LIBC.unshare(0x10000000)
attempt(lambda: open("/proc/self/uid_map", "w").write("0 0 1"))
attempt(lambda: tell(open(OUTSIDE + "/secret").read()))
open(OUTSIDE + "/new", "w").write("x")
""",
    ),
    Attack(
        "run a program with more rights",
        """
import subprocess
bait = OUTSIDE + "/secret"
for command in (["su", "-c", "cat " + bait], ["mount", "--bind", OUTSIDE, "."], ["cat", bait]):
    attempt(lambda: tell(subprocess.run(command, capture_output=True, text=True, timeout=5).stdout))
""",
        gentle=True,
    ),
)
