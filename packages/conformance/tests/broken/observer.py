"""Observers that break one law each."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from broken.described import described
from penstock.hooks.contracts import StepRecord


class Good:
    """Sums of the expert load, one object a step, in `seen/load.json` from the first checkpoint on."""

    def __init__(self, run_directory: Path, header: dict[str, Any]) -> None:
        self.path = run_directory / "seen" / "load.json"
        self.header = header
        self.sums: dict[int, list[int]] = {}

    def on_resume(self, step: int) -> None:
        if self.path.exists():
            known = json.loads(self.path.read_text())["sums"]
            self.sums = {int(name): sums for name, sums in known.items() if int(name) <= step}

    def on_step(self, record: StepRecord) -> None:
        self.sums[record.step] = record.counts_LE.sum(axis=1).tolist()

    def on_checkpoint(self, step: int) -> None:
        self.on_end()

    def on_end(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"header": self.header, "sums": self.sums}))


class Brief(Good):
    def on_step(self, record: StepRecord) -> None:
        if len(self.sums) == 3:
            raise RuntimeError("there is room for three steps")
        super().on_step(record)


class FirstLayer(Good):
    def on_step(self, record: StepRecord) -> None:
        self.shown = record.layers[0]
        super().on_step(record)


class Latest(Good):
    def on_end(self) -> None:
        self.latest = max(self.sums)
        super().on_end()


class Clearing(Good):
    def on_step(self, record: StepRecord) -> None:
        super().on_step(record)
        record.counts_LE[:] = 0


class Sampling(Good):
    def on_step(self, record: StepRecord) -> None:
        if random.random() < 2:
            super().on_step(record)


class Beside(Good):
    def on_end(self) -> None:
        super().on_end()
        Path("observer.cache").write_text("left over")


class Expecting(Good):
    def on_resume(self, step: int) -> None:
        self.path.stat()
        super().on_resume(step)


class Ascending(Good):
    def on_resume(self, step: int) -> None:
        super().on_resume(step)
        if self.path.exists() and str(step + 1) in json.loads(self.path.read_text())["sums"]:
            raise RuntimeError("that step is already known")


class Sweeping(Good):
    """Tidies up where others keep their files; its own lies elsewhere."""

    def on_resume(self, step: int) -> None:
        super().on_resume(step)
        shutil.rmtree(self.path.parents[1] / "trace", ignore_errors=True)


class Forgetful(Good):
    """Begins anew after each resume."""

    def on_resume(self, step: int) -> None:
        pass


of = described("observer", "An observer that breaks one law", frozenset({"exact-resume"}))
GOOD = of(Good)
BROKEN = {
    "observer/a-run-is-watched": of(Brief),
    "observer/a-dense-model-is-watched": of(FirstLayer),
    "observer/a-run-without-steps-ends": of(Latest),
    "observer/what-it-sees-is-left-alone": of(Clearing),
    "observer/no-global-random-numbers-are-drawn": of(Sampling),
    "observer/nothing-is-written-outside-the-run-directory": of(Beside),
    "observer/a-run-that-left-nothing-resumes": of(Expecting),
    "observer/a-run-resumes": of(Ascending),
    "observer/what-others-wrote-is-kept": of(Sweeping),
    "observer/a-resumed-run-leaves-the-files-of-a-whole-one": of(Forgetful),
}
