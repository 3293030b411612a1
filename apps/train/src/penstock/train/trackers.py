"""Where metrics go: a JSON-lines file and TensorBoard. Both drop the steps that a resumed run is about to repeat."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from penstock.hooks.atomic import write_bytes
from penstock.hooks.json_lines import parsed_row
from penstock.hooks.problems import ExitCode, Problem, ProblemError, failed


class JsonlTracker:
    """`metrics.jsonl`: one object per logged step. A line is complete once the next one has begun."""

    def __init__(self, *, run_directory: Path) -> None:
        self.path = run_directory / "metrics.jsonl"
        self._file = self.path.open("a", encoding="utf-8")

    def resume(self, step: int) -> None:
        """Drops the rows after `step`, and a last line that a killed process left incomplete."""
        lines = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        kept = [line for number, line in enumerate(lines, 1) if _step_of(line, f"{self.path}:{number}") <= step]
        self._file.close()
        write_bytes(self.path, b"".join(kept))
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        # JSON has no NaN or infinity: null says that the value is not a number.
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}, default=float) + "\n")  # numpy scalars
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: bytes, where: str) -> int:
    row = parsed_row(line, where)
    if isinstance(row, Problem):
        raise ProblemError(row, ExitCode.FAILED)
    step = row.get("step")
    if type(step) is not int:
        raise failed("invalid-json", "the row has no step", where, "repair or remove the line")
    return step


class TensorBoardTracker:
    """Event files under `tensorboard/`, with metric names as tags."""

    def __init__(self, *, run_directory: Path) -> None:
        self._folder = run_directory / "tensorboard"
        self._purge_step: int | None = None
        self._opened = None

    @property
    def _writer(self):
        if self._opened is None:  # importing tensorboard takes a second: only a run that logs pays for it
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(str(self._folder), purge_step=self._purge_step)
        return self._opened

    def resume(self, step: int) -> None:
        self._purge_step = step + 1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # the default of two minutes would lose steps to a kill that no resume repeats

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
