"""Weights & Biases. Offline by default: files under `wandb/` of the run directory, for `wandb sync`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from penstock_trackers.history import History, finite, require


class WandbTracker:
    """Logs to the run whose id is the run directory's name; imports wandb at the first row.

    Steps that a resumed run does again replace those of an offline run. An online one has them already: wandb refuses
    steps that go back, so what it shows from there on begins after the last step that it saw.
    """

    def __init__(
        self, *, run_directory: Path, project: str | None = None, mode: Literal["offline", "online"] = "offline"
    ) -> None:
        require("wandb")
        self.project, self.name, self.mode = project or run_directory.parent.name, run_directory.name, mode
        self.folder = run_directory / "wandb"
        self._history = History(run_directory / "wandb-rows.jsonl")
        self._opened: Any = None

    def resume(self, step: int) -> None:
        rows = self._history.rewind(step)
        if rows is not None and self.mode == "offline":
            shutil.rmtree(self.folder, ignore_errors=True)
            for number, metrics in rows:
                self._run.log(finite(metrics), step=number)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._history.append(step, metrics)
        self._run.log(finite(metrics), step=step)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.finish()

    @property
    def _run(self) -> Any:
        if self._opened is None:
            import wandb

            self._opened = wandb.init(
                project=self.project,
                name=self.name,
                id=self.name,
                dir=self.folder.parent,
                mode=self.mode,
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
        return self._opened
