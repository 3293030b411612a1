"""A Slurm of one machine, just large enough for submitit: `sbatch` starts a script at once, `srun` runs a command,
`sacct` tells how scripts ended, and `scancel` ends them. Each is a copy of this file, which runs as what it is called.

The folder of `SLURM_OF_TESTS` has the scripts that were submitted, and the process and state of each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def sbatch(folder: Path, script: str) -> None:
    """A process of its own waits for the script, as Slurm does, and writes how it ended."""
    number = 1 + len(list(folder.glob("*.sbatch")))
    text = Path(script).read_text()
    (folder / f"{number}.sbatch").write_text(text)
    sys.stdout.write(f"Submitted batch job {number}\n")
    sys.stdout.flush()
    if os.fork():
        return
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    (output,) = (line.partition("=")[2] for line in text.splitlines() if line.startswith("#SBATCH --output="))
    numbers = {"SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}
    with Path(output.replace("%j", str(number))).open("ab") as log:
        job = subprocess.Popen(["bash", script], env={**os.environ, **numbers}, stdout=log, stderr=log)
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    (folder / f"{number}.state").write_text("COMPLETED" if job.wait() == 0 else "FAILED")


def srun(command: list[str]) -> None:
    """Puts the output of the command, the rest of the line after the options, where they say."""
    options = {"--output": 1, "--error": 2}
    while command[0].startswith("--"):
        option = command.pop(0)
        if option in options:
            path = command.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), options[option])
    os.environ.update(SLURM_PROCID="0", SLURM_LOCALID="0")
    os.execvp(command[0], command)


def sacct(folder: Path) -> None:
    """In the form of `sacct -o JobID,State,NodeList --parsable2`."""
    rows = ["JobID|State|NodeList"]
    for script in folder.glob("*.sbatch"):
        state = script.with_suffix(".state")
        rows.append(f"{script.stem}|{state.read_text() if state.exists() else 'RUNNING'}|here")
    sys.stdout.write("\n".join(rows) + "\n")


def scancel(folder: Path, number: str) -> None:
    state = folder / f"{number}.state"
    if not state.exists():
        with suppress(ProcessLookupError, FileNotFoundError):
            os.killpg(int((folder / f"{number}.pid").read_text()), signal.SIGKILL)
        state.write_text("CANCELLED")


if __name__ == "__main__":
    name, place = Path(sys.argv[0]).name, Path(os.environ["SLURM_OF_TESTS"])
    match name:
        case "sbatch":
            sbatch(place, sys.argv[1])
        case "srun":
            srun(sys.argv[1:])
        case "sacct":
            sacct(place)
        case "scancel":
            scancel(place, sys.argv[1])
