"""Kills a real `penstock data clean` or `penstock data index` and its workers at random moments, and starts it again
each time."""

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
OUT = "OUT"
"""Stands for the folder in the arguments of a command."""
WORDS = ("gate", "mill", "river", "turbine", "valley", "letter", "winter", "bridge", "market", "teacher", "the", "of")


def clean_command(folder: Path, stages: Sequence[str], documents: int = 400) -> list[str]:
    """A `penstock data clean` of a corpus of prose, of which a third are copies or nearly so."""
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
    return ["clean", str(path), "--out", OUT]


def index_commands(folder: Path, documents: int) -> dict[str, list[list[str]]]:
    """Commands of `penstock data index`: the last of each list may be killed, those before it make what it changes. The
    addition replaces a third of the documents that the index has, and brings others."""
    limit = ["--max-ram", "240MB"]  # some hundred documents at a time
    corpora: list[list[str]] = []
    for name, count in (("before", documents // 2), ("after", documents)):
        draw, rows = random.Random(0), list[dict[str, str]]()
        for number in range(count):
            words = [draw.choice(WORDS) + str(draw.randrange(40)) for _ in range(draw.randint(20, 400))]
            words += [name] * (number % 3 == 0)
            rows.append({"text": " ".join(words)})
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        corpora.append(["index", "add", OUT, f"{{use: jsonl, paths: ['{folder / name / 'rows.jsonl'}']}}", *limit])
    before, add = corpora
    gone = [f"{folder / 'after' / 'rows.jsonl'}:{line}" for line in range(1, documents, 7)]
    remove = ["index", "remove", OUT, *gone, *limit]
    compact = ["index", "compact", OUT, *limit]
    return {
        "index begin": [before],
        "index add": [before, add],
        "index remove": [add, remove],
        "index compact": [add, remove, compact],
    }


def start(arguments: Sequence[str], out: Path) -> subprocess.Popen[bytes]:
    named = [str(out) if argument == OUT else argument for argument in arguments]
    with _log(out).open("ab") as log:
        command = [sys.executable, "-m", "penstock.cli", "data", *named]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def run_to_the_end(arguments: Sequence[str], out: Path) -> float:
    """Returns the seconds it took."""
    begun = time.monotonic()
    process = start(arguments, out)
    assert process.wait(LIMIT) == 0, _log(out).read_text()
    return time.monotonic() - begun


def run_killed(arguments: Sequence[str], out: Path, generator: random.Random, seconds: float, kills: int) -> int:
    """Starts a command until it has ended, killed so often at moments of the `seconds` that an unkilled one takes;
    returns how many kills found it at work."""
    found = 0
    for _ in range(kills):
        process = start(arguments, out)
        try:
            process.wait(generator.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            found += 1
    run_to_the_end(arguments, out)
    return found


def _log(out: Path) -> Path:
    return out.parent / f"{out.name}.log"


def digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files that are not hidden."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            whole.update(f"{relative.as_posix()}\0".encode() + path.read_bytes())
    return whole.hexdigest()
