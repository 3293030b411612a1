"""Trackers that break one law each."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broken.described import described


class Good:
    """One JSON object a line."""

    def __init__(self, run_directory: Path) -> None:
        self.path = run_directory / "log.jsonl"
        self.path.touch()

    def resume(self, step: int) -> None:
        kept = [line for line in self.lines() if json.loads(line)["step"] <= step]
        self.path.write_text("".join(kept))

    def lines(self) -> list[str]:
        return [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.write(json.dumps({"step": step, **{name: self.number(value) for name, value in metrics.items()}}) + "\n")

    def number(self, value: Any) -> float | None:
        return float(value) if math.isfinite(value) else None

    def write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line)

    def close(self) -> None:
        pass


class FromZero(Good):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.steps = getattr(self, "steps", 0)
        if self.steps == 2:
            raise RuntimeError("the plan of this account has two steps")
        self.steps += 1
        super().log(step, metrics)


class Averaging(Good):
    logged = 0

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.logged += 1
        super().log(step, metrics)

    def close(self) -> None:
        self.mean = 1 / self.logged


class OnceClosed(Good):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")
        self.closed = True


class Rational(Good):
    def number(self, value: Any) -> float | None:
        return super().number(float(value).as_integer_ratio()[0] and value)


class Pure(Good):
    def number(self, value: Any) -> float | None:
        return value if not isinstance(value, float) or math.isfinite(value) else None


class FileAMetric(Good):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name in metrics:
            (self.path.parent / f"{name.encode('ascii').decode()}.seen").touch()
        super().log(step, metrics)


class Columns(Good):
    names: tuple[str, ...] | None = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.names = self.names or tuple(metrics)
        if self.names != tuple(metrics):
            raise ValueError(f"the columns are {self.names}")
        super().log(step, metrics)


class Stamping(Good):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        metrics["step"] = step  # pyright: ignore[reportIndexIssue]
        super().log(step, metrics)


class Beside(Good):
    def close(self) -> None:
        Path("tracker.cache").write_text("left over")


class Sweeping(Good):
    def resume(self, step: int) -> None:
        shutil.rmtree(self.path.parent / "checkpoints", ignore_errors=True)
        super().resume(step)


class Ascending(Good):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        last = self.path.with_suffix(".last")
        if last.exists() and int(last.read_text()) >= step:
            raise ValueError("steps must ascend")
        last.write_text(str(step))
        super().log(step, metrics)


class Expecting(Good):
    def resume(self, step: int) -> None:
        self.last = json.loads(self.lines()[-1])
        super().resume(step)


class Locking(Good):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        super().log(step, metrics)
        self.lock.touch()

    @property
    def lock(self) -> Path:
        return self.path.with_suffix(".lock")

    def resume(self, step: int) -> None:
        if self.lock.exists():
            raise RuntimeError("another process logs here")
        super().resume(step)

    def close(self) -> None:
        self.lock.unlink(missing_ok=True)


class Strict(Good):
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines(keepends=True)


class LastOne(Good):
    """Keeps the path in the class: the tracker that was built last has it."""

    def __init__(self, run_directory: Path) -> None:
        super().__init__(run_directory)
        LastOne.current = self.path

    def write(self, line: str) -> None:
        with self.current.open("a") as file:
            file.write(line)


class Remote(Good):
    """Sends the metrics away, and says that they are here."""

    def write(self, line: str) -> None:
        self.sent = line


class Buffering(Good):
    def __init__(self, run_directory: Path) -> None:
        super().__init__(run_directory)
        self.buffer = ""

    def write(self, line: str) -> None:
        self.buffer += line

    def close(self) -> None:
        super().write(self.buffer)
        self.buffer = ""


class Appending(Good):
    def resume(self, step: int) -> None:
        self.path.write_text("".join(self.lines()))


ALL = frozenset({"local", "durable", "exact-resume"})
of = described("tracker", "A tracker that breaks one law", ALL)
GOOD = of(Good)
BROKEN = {
    "tracker/a-run-is-logged": of(FromZero),
    "tracker/a-run-that-logs-nothing-is-closed": of(Averaging),
    "tracker/closing-twice-is-closing-once": of(OnceClosed),
    "tracker/what-is-no-number-is-logged": of(Rational),
    "tracker/any-type-of-number-is-logged": of(Pure),
    "tracker/any-name-is-logged": of(FileAMetric),
    "tracker/a-metric-may-come-later": of(Columns),
    "tracker/the-metrics-are-left-alone": of(Stamping),
    "tracker/nothing-is-written-outside-the-run-directory": of(Beside),
    "tracker/what-others-wrote-is-kept": of(Sweeping),
    "tracker/a-run-resumes": of(Ascending),
    "tracker/a-run-resumes-from-before-its-first-step": of(Expecting),
    "tracker/a-run-that-was-never-closed-resumes": of(Locking),
    "tracker/a-line-that-was-cut-is-survived": of(Strict),
    "tracker/runs-are-kept-apart": of(LastOne),
    "tracker/what-is-logged-is-in-the-run-directory": of(Remote),
    "tracker/a-logged-step-survives-a-kill": of(Buffering, frozenset({"local", "durable", "exact-resume"})),
    "tracker/a-resumed-run-leaves-the-files-of-a-whole-one": of(Appending),
}
