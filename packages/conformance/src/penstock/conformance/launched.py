"""What workers call when a launcher is held to its laws."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def doubled(argument: dict[str, Any]) -> dict[str, Any]:
    """Lists, nested objects and null come back as they are; a number is doubled."""
    return {**argument, "number": 2 * argument["number"]}


def process(argument: dict[str, Any]) -> dict[str, Any]:
    return {"pid": os.getpid()}


def ends(argument: dict[str, Any]) -> dict[str, Any]:
    """Raises, kills its process or returns, as the argument says."""
    match argument["how"]:
        case "raises":
            raise ValueError(argument["text"])
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    return argument


def stays(argument: dict[str, Any]) -> dict[str, Any]:
    """Returns its process if it has no file to write that to. Otherwise stays there."""
    if argument["file"] is None:
        return process(argument)
    part = Path(argument["file"] + ".part")
    part.write_text(str(os.getpid()))
    part.rename(argument["file"])
    time.sleep(120)
    return {}
