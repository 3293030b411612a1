"""MLflow. By default a database of its own in the run directory: `mlflow ui --backend-store-uri sqlite:///...`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock_trackers.history import History, finite, require


class MlflowTracker:
    """Logs to the run of the run directory's name; imports mlflow at the first row.

    Steps that a resumed run does again replace those of its own database. A server keeps both, each with its time.
    """

    def __init__(self, *, run_directory: Path, experiment: str | None = None, tracking_uri: str | None = None) -> None:
        require("mlflow")
        self.experiment, self.name = experiment or run_directory.parent.name, run_directory.name
        self.folder = run_directory / "mlflow"
        self.tracking_uri = tracking_uri or f"sqlite:///{self.folder / 'mlflow.db'}"
        self._own = tracking_uri is None
        self._history = History(run_directory / "mlflow-rows.jsonl")
        self._opened: tuple[Any, str] | None = None

    def resume(self, step: int) -> None:
        rows = self._history.rewind(step)
        if rows is not None and self._own:
            shutil.rmtree(self.folder, ignore_errors=True)
            for number, metrics in rows:
                self._send(number, metrics)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._history.append(step, metrics)
        self._send(step, metrics)

    def close(self) -> None:
        if self._opened is not None:
            client, run = self._opened
            client.set_terminated(run)

    def _send(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        client, run = self._run
        now = int(1000 * time.time())
        client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in finite(metrics).items()])

    @property
    def _run(self) -> tuple[Any, str]:
        if self._opened is None:
            from mlflow import MlflowClient

            self.folder.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=self.tracking_uri)
            self._opened = client, self._started(client)
        return self._opened

    def _started(self, client: Any) -> str:
        """The id of the run of this name, which goes on where there is one."""
        found = client.get_experiment_by_name(self.experiment)
        where = (self.folder / "artifacts").absolute().as_uri() if self._own else None
        experiment = (
            found.experiment_id if found else client.create_experiment(self.experiment, artifact_location=where)
        )
        runs = client.search_runs([experiment], filter_string=f"attributes.run_name = '{self.name}'")
        if runs:
            client.update_run(runs[0].info.run_id, status="RUNNING")
            return runs[0].info.run_id
        return client.create_run(experiment, run_name=self.name).info.run_id
