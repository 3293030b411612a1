"""Kills a real `penstock data clean` and its workers at random moments, and starts it again each time."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LIMIT = 600.0  # seconds of one start; a cleaning that takes longer is stuck
WORDS = ("gate", "mill", "river", "turbine", "valley", "letter", "winter", "bridge", "market", "teacher", "the", "of")


def write_cleaning(folder: Path, stages: Sequence[str], documents: int = 400) -> Path:
    """A file of `penstock data clean` with a corpus of prose, of which a third are copies or nearly so."""
    draw = random.Random(0)
    texts: list[str] = []
    for number in range(documents):
        if number % 3 == 2:
            words = texts[draw.randrange(number)].split(" ")
            if number % 2:
                words[draw.randrange(len(words))] = "copied"
            texts.append(" ".join(words))
        else:
            texts.append(" ".join(draw.choice(WORDS) + str(draw.randrange(40)) for _ in range(draw.randint(20, 400))))
    rows = [{"text": text, "url": f"http://a.b/{number % 350}"} for number, text in enumerate(texts)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "clean.yaml"
    path.write_text(
        f"corpus: {{use: jsonl, paths: ['{folder / 'rows.jsonl'}'], url: url}}\n"
        f"stages: [{', '.join(stages)}]\nlauncher: {{use: local, workers: 2, pin: false}}\nshard_mb: 0.05\n"
    )
    return path


def start(clean_file: Path, out: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "penstock.cli", "data", "clean", str(clean_file), "--out", str(out)]
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)


def cleaned(clean_file: Path, out: Path) -> float:
    """Cleans to the end; returns the seconds it took."""
    begun = time.monotonic()
    process = start(clean_file, out)
    assert process.wait(LIMIT) == 0, (out.parent / f"{out.name}.log").read_text()
    return time.monotonic() - begun


def killed_cleaning(clean_file: Path, out: Path, generator: random.Random, seconds: float, kills: int) -> int:
    """Starts a cleaning until it has ended, killed so often at moments of the `seconds` that an unkilled one takes;
    returns how many kills found it at work."""
    found = 0
    for _ in range(kills):
        process = start(clean_file, out)
        try:
            process.wait(generator.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            found += 1
    cleaned(clean_file, out)
    return found


def digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files that are not hidden."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            whole.update(f"{relative.as_posix()}\0".encode() + path.read_bytes())
    return whole.hexdigest()
