"""Trackio: a local-first tracker with the interface of wandb. It keeps all projects in one folder of this machine
(`TRACKIO_DIR`, in the cache of Hugging Face by default), so that one dashboard compares them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from penstock_trackers.history import History, finite, require


class TrackioTracker:
    """Logs to the run of the run directory's name; imports trackio at the first row."""

    def __init__(self, *, run_directory: Path, project: str | None = None) -> None:
        require("trackio")
        self.project, self.name = project or run_directory.parent.name, run_directory.name
        self._history = History(run_directory / "trackio" / "rows.jsonl")
        self._opened: Any = None

    def resume(self, step: int) -> None:
        rows = self._history.rewind(step)
        if rows is not None:
            self._forget()
            for number, metrics in rows:
                self._run.log(finite(metrics), step=number)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._history.append(step, metrics)
        self._run.log(finite(metrics), step=step)

    def close(self) -> None:
        if self._opened is not None:
            with redirect_stdout(sys.stderr):  # trackio prints, and a command's result alone belongs to stdout
                self._opened.finish()

    @property
    def _run(self) -> Any:
        if self._opened is None:
            import trackio

            quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            with redirect_stdout(sys.stderr):
                self._opened = trackio.init(project=self.project, name=self.name, resume="allow", **quiet)
        return self._opened

    def _forget(self) -> None:
        import trackio

        for run in trackio.Api().runs(self.project):
            if run.name == self.name:
                run.delete()
