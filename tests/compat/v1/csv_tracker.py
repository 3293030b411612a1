"""A tracker for spreadsheets."""

from collections.abc import Mapping
from pathlib import Path

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema


class CsvSettings(Schema):
    metric: str = "loss"
    """The column."""


class CsvTracker:
    def __init__(self, *, metric: str, run_directory: Path) -> None:
        self.metric = metric
        self.file = (run_directory / "metrics.csv").open("a", encoding="utf-8")

    def resume(self, step: int) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.metric in metrics:
            self.file.write(f"{step},{metrics[self.metric]}\n")

    def close(self) -> None:
        self.file.close()


@hookimpl
def trackers() -> list[Component]:
    return [
        Component(
            kind="tracker",
            name="csv",
            target="csv_tracker:CsvTracker",
            config="csv_tracker:CsvSettings",
            summary="One metric a line",
            contract=1,
        )
    ]
