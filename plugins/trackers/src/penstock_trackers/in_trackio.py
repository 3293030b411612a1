"""Trackio: a local-first tracker with the interface of wandb. It keeps all projects in one folder of this machine
(`TRACKIO_DIR`, in the cache of Hugging Face by default), so one dashboard compares them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from penstock_trackers.history import Row
from penstock_trackers.tracker import LibraryTracker


def trackio_tracker(*, run_directory: Path, project: str | None = None) -> LibraryTracker:
    """Logs to the run named after the run directory."""
    store = TrackioStore(project or run_directory.parent.name, run_directory.name)
    return LibraryTracker("trackio", store, run_directory)


class TrackioStore:
    forgets = True

    def __init__(self, project: str, name: str) -> None:
        self.project, self.name = project, name
        self._opened: Any = None

    def send(self, rows: list[Row]) -> None:
        for step, metrics in rows:
            self._run.log(metrics, step=step)

    def forget(self) -> None:
        import trackio

        try:
            runs = list(trackio.Api().runs(self.project))
        except ValueError:  # unknown project: its folder has changed, or nothing has reached it yet
            return
        for run in runs:
            if run.name == self.name:
                run.delete()

    def finish(self) -> None:
        if self._opened is not None:
            with redirect_stdout(sys.stderr):  # trackio prints, but stdout is only for a command's result
                self._opened.finish()
            self._opened = None

    @property
    def _run(self) -> Any:
        if self._opened is None:
            import trackio

            quiet: dict[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            with redirect_stdout(sys.stderr):
                self._opened = trackio.init(project=self.project, name=self.name, resume="allow", **quiet)
        return self._opened
