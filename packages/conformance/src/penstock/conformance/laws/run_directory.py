"""What is held against everything that writes to a run directory: it keeps to it, and to its own files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from penstock.conformance.law import expect


def folders(parent: Path, *names: str) -> list[Path]:
    """New folders of these names."""
    made = [parent / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


def files_of(run: Path) -> dict[str, bytes]:
    """The content of every file, by its path in the run directory."""
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def expect_nothing_outside(folder: Path, write: Callable[[Path], object]) -> None:
    """`write(run)`, called in another working directory, leaves nothing in `folder` but below the run directory."""
    run, elsewhere = folders(folder, "run", "elsewhere")
    with contextlib.chdir(elsewhere):
        write(run)
    strays = [path for path in folder.rglob("*") if path not in (run, elsewhere) and run not in path.parents]
    expect(not strays, f"{', '.join(str(path.relative_to(folder)) for path in strays)} has appeared")


def expect_others_kept(run: Path, write: Callable[[], object]) -> None:
    """Config, weights and trace, which others wrote to the run directory, outlast `write()`."""
    others = {
        run / "config.resolved.yaml": b"seed: 0\n",
        run / "checkpoints" / "step-1" / "weights": bytes(8),
        run / "trace" / "other.npz": bytes(8),
    }
    for path, content in others.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write()
    lost = [path.name for path, content in others.items() if not path.is_file() or path.read_bytes() != content]
    expect(not lost, f"{', '.join(lost)} is gone or changed")


def expect_same_files(whole: Path, resumed: Path) -> None:
    """Both run directories hold the same files, byte for byte."""
    expected, found = files_of(whole), files_of(resumed)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    expect(not wrong, f"{', '.join(wrong)} differs")
