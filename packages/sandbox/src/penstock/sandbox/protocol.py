"""What the main process and a zygote say to one another on the zygote's standard input, a socket."""

from __future__ import annotations

import struct

CONTROL = 0
"""The zygote's end."""
RUN, STOP = b"r", b"s"
"""`RUN` comes with the descriptors of source, output and report. `STOP` ends the program."""
STATUS = struct.Struct("<i")
"""The answer: the status of the program's process, as that of `os.wait`."""
TOKEN = 16
"""Bytes before the source, which begin the report of a program that has passed."""
