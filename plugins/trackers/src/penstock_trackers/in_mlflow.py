"""MLflow. By default its own database in the run directory: `mlflow ui --backend-store-uri sqlite:///...`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from penstock_trackers.history import Row
from penstock_trackers.tracker import LibraryTracker

METRICS_OF_A_CALL = 1000  # servers refuse longer batches


def mlflow_tracker(
    *, run_directory: Path, experiment: str | None = None, tracking_uri: str | None = None
) -> LibraryTracker:
    """Logs to the run named after the run directory.

    Steps that a resumed run repeats replace the earlier ones in its own database. A server keeps both, each with its
    time.
    """
    store = MlflowStore(experiment or run_directory.parent.name, run_directory, tracking_uri)
    return LibraryTracker("mlflow", store, run_directory)


class MlflowStore:
    def __init__(self, experiment: str, run_directory: Path, tracking_uri: str | None) -> None:
        self.experiment, self.name = experiment, run_directory.name
        self.folder, self.tracking_uri = run_directory / "mlflow", tracking_uri
        self._opened: tuple[Any, str] | None = None

    @property
    def forgets(self) -> bool:
        return self.tracking_uri is None

    def send(self, rows: list[Row]) -> None:
        from mlflow.entities import Metric

        client, run = self._run
        now = int(1000 * time.time())
        metrics = [Metric(allowed(name), value, now, step) for step, row in rows for name, value in row.items()]
        for start in range(0, len(metrics), METRICS_OF_A_CALL):
            client.log_batch(run, metrics=metrics[start : start + METRICS_OF_A_CALL])

    def forget(self) -> None:
        """Marks the run as deleted instead of removing its file, which MLflow may still hold open."""
        client, run = self._run
        client.delete_run(run)
        self._opened = None

    def finish(self) -> None:
        if self._opened is not None:
            client, run = self._opened
            client.set_terminated(run)
            self._opened = None

    @property
    def _run(self) -> tuple[Any, str]:
        if self._opened is None:
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=self.tracking_uri or self._own())
            self._opened = client, self._started(client)
        return self._opened

    def _own(self) -> str:
        self.folder.mkdir(exist_ok=True)
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def _started(self, client: Any) -> str:
        """The id of the run of this name: an existing run is continued."""
        experiment = self._experiment(client)
        runs = client.search_runs([experiment], filter_string=f"attributes.run_name = '{self.name}'")
        if not runs:
            return client.create_run(experiment, run_name=self.name).info.run_id
        client.update_run(runs[0].info.run_id, status="RUNNING")
        return runs[0].info.run_id

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        artifacts = (self.folder / "artifacts").absolute().as_uri() if self.tracking_uri is None else None
        return client.create_experiment(self.experiment, artifact_location=artifacts)


def allowed(name: str) -> str:
    """A metric's name as MLflow accepts it: letters, digits, `_ . - /` and spaces, in a path that goes down."""
    parts = re.sub(r"[^\w.\- /]", "_", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"
