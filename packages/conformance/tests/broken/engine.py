"""Engines that break one law each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from broken.described import described


class Good:
    def command(self, model_folder: Path, port: int) -> Any:
        return [sys.executable, "-m", "http.server", "--directory", str(model_folder), str(port)]


class Line(Good):
    def command(self, model_folder: Path, port: int) -> Any:
        return " ".join(super().command(model_folder, port))


class Elsewhere(Good):
    def command(self, model_folder: Path, port: int) -> Any:
        return super().command(Path("model"), port)


class OnePort(Good):
    def command(self, model_folder: Path, port: int) -> Any:
        return super().command(model_folder, 8000)


class Splitting(Good):
    def command(self, model_folder: Path, port: int) -> Any:
        return " ".join(super().command(model_folder, port)).split()


class Remembering(Good):
    """Keeps the list that it has given away."""

    def __init__(self) -> None:
        self.known: dict[tuple[Path, int], Any] = {}

    def command(self, model_folder: Path, port: int) -> Any:
        return self.known.setdefault((model_folder, port), super().command(model_folder, port))


of = described("engine", "An engine that breaks one law")
GOOD = of(Good)
BROKEN = {
    "engine/the-command-is-a-list-of-arguments": of(Line),
    "engine/the-command-names-the-model": of(Elsewhere),
    "engine/the-command-names-the-port": of(OnePort),
    "engine/any-folder-is-one-argument": of(Splitting),
    "engine/the-command-is-the-caller-s": of(Remembering),
}
