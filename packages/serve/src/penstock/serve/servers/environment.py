"""Where a server is installed: the Python of its own environment, and what this machine computes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from penstock.hooks.problems import Problem

MISSING = "missing-engine"
_FINDS = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"


def python_of(setting: str | None, variable: str) -> str:
    """The Python of an environment: the setting, or the environment variable, or the one that runs this."""
    return os.path.expanduser(setting or os.environ.get(variable) or sys.executable)


def lacking(python: str, modules: Sequence[str], server: str, name: str, install: str) -> list[Problem]:
    """A problem if a Python is not there or cannot find the modules. `install` has `{python}` for that of the new
    environment."""
    place = "~/.venvs/" + name
    lines = install.format(python=f"{place}/bin/python")
    fix = (
        f"install it in an environment of its own: `uv venv --python 3.11 {place} && {lines}`, "
        f"then `--server '{{use: {name}, python: {place}/bin/python}}'`"
    )
    if shutil.which(python) is None:
        return [Problem(MISSING, f"{server}: no Python at '{python}'", "--server", fix)]
    found = subprocess.run([python, "-c", _FINDS, *modules], capture_output=True, check=False, timeout=60)
    if found.returncode == 0:
        return []
    return [Problem(MISSING, f"{server} is not installed for {python}", "--server", fix)]


def device_of(setting: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """What a server computes on."""
    if setting == "auto":
        return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
    return setting


def has_amx() -> bool:
    """Whether the processor multiplies tiles of matrices (Intel AMX)."""
    try:
        return " amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def threads_of(threads: int | None) -> dict[str, str]:
    """The variable that holds the number of threads of torch."""
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
