"""Weights & Biases. Offline by default: files under `wandb/` of the run directory, for `wandb sync`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from penstock_trackers.history import Row
from penstock_trackers.tracker import LibraryTracker


def wandb_tracker(
    *, run_directory: Path, project: str | None = None, mode: Literal["offline", "online"] = "offline"
) -> LibraryTracker:
    """Logs to the run whose name and id are the run directory's name.

    Steps that a resumed run repeats replace those of an offline run. An online run already has them: wandb refuses
    steps that go back, so new rows begin after the last step that it received.
    """
    store = WandbStore(project or run_directory.parent.name, run_directory, mode)
    return LibraryTracker("wandb", store, run_directory)


class WandbStore:
    def __init__(self, project: str, run_directory: Path, mode: Literal["offline", "online"]) -> None:
        self.project, self.run_directory = project, run_directory
        self.mode: Literal["offline", "online"] = mode
        self._opened: Any = None

    @property
    def forgets(self) -> bool:
        return self.mode == "offline"

    def send(self, rows: list[Row]) -> None:
        for step, metrics in rows:
            self._run.log(metrics, step=step)

    def forget(self) -> None:
        self._release()
        shutil.rmtree(self.run_directory / "wandb", ignore_errors=True)

    def finish(self) -> None:
        if self._opened is not None:
            self._opened.finish()
            self._opened = None

    @property
    def _run(self) -> Any:
        if self._opened is None:
            import wandb

            self._release()
            self._opened = wandb.init(
                project=self.project,
                name=self.run_directory.name,
                id=self.run_directory.name,
                dir=self.run_directory,
                mode=self.mode,
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
        return self._opened

    def _release(self) -> None:
        """Finishes an unfinished run with this id in this process: wandb allows each id only once per process."""
        import wandb

        begun = wandb.setup().most_recent_active_run
        if begun is not None and begun.id == self.run_directory.name:
            begun.finish()
