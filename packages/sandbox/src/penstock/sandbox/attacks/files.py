"""Reading and writing outside."""

from __future__ import annotations

from penstock.sandbox.attacks.attack import Attack

FILES = (
    Attack("write a new file", "open(OUTSIDE + '/new', 'w').write('x')", gentle=True),
    Attack("overwrite a file", "open(OUTSIDE + '/target', 'w').write('x')", gentle=True),
    Attack("append to a file", "open(OUTSIDE + '/target', 'a').write('x')", gentle=True),
    Attack("remove a file", "os.remove(OUTSIDE + '/target')", gentle=True),
    Attack("rename a file", "os.rename(OUTSIDE + '/target', OUTSIDE + '/renamed')", gentle=True),
    Attack("truncate a file", "os.truncate(OUTSIDE + '/target', 0)", gentle=True),
    Attack("change a file's mode", "os.chmod(OUTSIDE + '/target', 0o777)", gentle=True),
    Attack("change a file's time", "os.utime(OUTSIDE + '/target', (1, 1))", gentle=True),
    Attack("make a folder", "os.mkdir(OUTSIDE + '/folder')", gentle=True),
    Attack("remove a tree", "import shutil; shutil.rmtree(OUTSIDE)", gentle=True),
    Attack(
        "write through a symbolic link",
        "os.symlink(OUTSIDE + '/target', 'link'); open('link', 'w').write('x')",
        gentle=True,
    ),
    Attack(
        "read through a hard link",
        "os.link(OUTSIDE + '/secret', 'link'); tell(open('link').read())",
        gentle=True,
    ),
    Attack("read a secret", "tell(open(OUTSIDE + '/secret').read())", gentle=True),
    Attack("read a key in a home folder", "tell(open(OUTSIDE + '/home/.ssh/id_rsa').read())", gentle=True),
    Attack(
        "read by way of /proc",
        """
for way in ("/proc/self/root", "/proc/1/root", "/proc/%d/root" % VICTIM, "/proc/self/cwd/../../../../../.."):
    attempt(lambda: tell(open(way + OUTSIDE + "/secret").read()))
""",
        gentle=True,
    ),
    Attack("climb out of the root", "os.chdir('../' * 40); tell(open(OUTSIDE[1:] + '/secret').read())", gentle=True),
    Attack(
        "leave the root by chroot",
        """
os.mkdir("jail")
held = os.open(".", os.O_RDONLY)
attempt(lambda: LIBC.chroot(b"jail"))
os.fchdir(held)
attempt(lambda: os.chdir("../" * 40))
attempt(lambda: LIBC.chroot(b"."))
tell(open(OUTSIDE + "/secret").read())
""",
    ),
    Attack(
        "open a file by its handle",
        """
handle = ctypes.create_string_buffer((8).to_bytes(4, "little") + (1).to_bytes(4, "little") + (2).to_bytes(8, "little"))
for start in range(3, 32):
    root = LIBC.open_by_handle_at(start, handle, os.O_RDONLY)
    if root >= 0:
        attempt(lambda: tell(open(os.open(OUTSIDE[1:] + "/secret", os.O_RDONLY, dir_fd=root)).read()))
""",
    ),
    Attack(
        "open by openat2",
        """
how = ctypes.create_string_buffer((os.O_WRONLY | os.O_CREAT).to_bytes(8, "little") + (0o600).to_bytes(8, "little"), 24)
file = LIBC.syscall(437, -100, (OUTSIDE + "/new").encode(), how, 24)
os.write(file, b"x")
""",
        gentle=True,
    ),
    Attack(
        "mount in namespaces of its own",
        """
LIBC.unshare(0x10000000 | 0x00020000)
LIBC.mount(b"proc", b"/proc", b"proc", 0, None)
LIBC.mount(OUTSIDE.encode(), os.getcwd().encode(), None, 4096, None)
LIBC.mount(b"none", b"/", None, 32 | 4096, None)
attempt(lambda: open(OUTSIDE + "/new", "w").write("x"))
attempt(lambda: tell(open("secret").read()))
tell(open("/proc/1/root" + OUTSIDE + "/secret").read())
""",
    ),
    Attack("write to the shared memory of the machine", "open('/dev/shm/' + MARK, 'w').write('x')", gentle=True),
    Attack("write to the machine's temporary folder", "open('/tmp/' + MARK, 'w').write('x')", gentle=True),
    Attack("change the standard library", "open(os.path.dirname(os.__file__) + '/' + MARK + '.py', 'w').write('x')"),
    Attack(
        "read or write whatever is open",
        """
found = b""
for file in range(3, 256):
    attempt(lambda: os.set_blocking(file, False))
    for way in (lambda: os.pread(file, 4096, 0), lambda: os.read(file, 4096)):
        found += attempt(way) or b""
    attempt(lambda: os.fchdir(file))
    found += attempt(lambda: open("secret", "rb").read()) or b""
tell(found.decode("latin-1"))
""",
    ),
    Attack(
        "leave files for the next program",
        """
for folder in (".", "/tmp", "/dev/shm", "/box", os.path.dirname(os.__file__)):
    attempt(lambda: open(folder + "/" + MARK, "w").write("x"))
""",
        then="print('FOUND' * any(os.path.exists(each + '/' + MARK) for each in ('.', '/tmp', '/dev/shm', '/box')))",
    ),
)
