"""Servers that break one law each."""

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


of = described("server", "A server that breaks one law")
GOOD = of(Good)
BROKEN = {
    "server/the-command-is-a-list-of-arguments": of(Line),
    "server/the-command-names-the-model": of(Elsewhere),
    "server/the-command-names-the-port": of(OnePort),
    "server/any-folder-is-one-argument": of(Splitting),
    "server/the-command-is-the-caller-s": of(Remembering),
}
