"""More than a program may use."""

from __future__ import annotations

from penstock.sandbox.attacks.attack import Attack

RESOURCES = (
    Attack(
        "fork bomb",
        """
for _ in range(200):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
time.sleep(0.3)
""",
    ),
    Attack(
        "fork bomb that forks in its children",
        """
for _ in range(8):
    attempt(os.fork)
time.sleep(0.3)
""",
    ),
    Attack(
        "thread bomb",
        """
import threading
threading.stack_size(1 << 16)
for _ in range(500):
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
""",
    ),
    Attack("memory bomb", "held = [bytearray(b'x') * (64 << 20) for _ in range(32)]; time.sleep(0.3)"),
    Attack(
        "memory bomb of many processes",
        """
for _ in range(8):
    if os.fork() == 0:
        held = [bytearray(b"x") * (64 << 20) for _ in range(5)]
        time.sleep(20)
time.sleep(2)
""",
    ),
    Attack("file bomb", "open('big', 'wb').write(bytes(300 << 20)); open(OUTSIDE + '/big', 'wb').write(b'x')"),
    Attack("many small files", "for number in range(20000): open('%d' % number, 'wb').close()"),
    Attack("output bomb", "for _ in range(1000): print('x' * 100000)"),
    Attack("output bomb to the error stream", "for _ in range(1000): os.write(2, b'x' * 100000)"),
    Attack("output without end", "while True: print(end='x')"),
    Attack("output that is not text", "os.write(1, bytes(range(256)) * 16)"),
    Attack("run without end", "while True: pass"),
    Attack("sleep without end", "time.sleep(1e6)"),
    Attack(
        "run without end and ignore all signals",
        """
import signal
for number in range(1, 65):
    attempt(lambda: signal.signal(number, signal.SIG_IGN))
while True:
    attempt(lambda: sum(range(10**6)))
""",
    ),
    Attack("stop itself", "os.kill(os.getpid(), 19)"),
    Attack(
        "an exception whose text never ends",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
    ),
    Attack("an exception of a hundred megabytes", "raise ValueError('x' * 10**8)"),
    Attack("break the interpreter", "ctypes.string_at(0)"),
    Attack("recursion without end in C", "import json\nitem = []\nfor _ in range(10**6): item = [item]\nrepr(item)"),
    Attack(
        "raise its limits",
        """
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    attempt(lambda: resource.setrlimit(kind, (-1, -1)))
held = [bytearray(b"x") * (64 << 20) for _ in range(32)]
time.sleep(0.3)
""",
    ),
)
