"""A launcher that trains nothing, for sweeps whose files matter and whose models do not. Loaded with `--plugin`.

Each job gets figures that follow from its cell and seed, in the files that a worker writes. What it needs for that is
imported when a job runs, so that loading it costs a command nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from penstock.hooks import Component, hookimpl

DOCUMENTS = 50
TEXT = "ab" * 32


class Instant:
    """See `penstock.hooks.contracts.launching.Launcher`."""

    def __init__(self, folder: Path) -> None:
        pass

    def run(self, function: str, jobs: Iterable[Any]) -> Iterator[Any]:
        from penstock.hooks.contracts.launching import Outcome
        from penstock.run.records.sweep import MeasuredRun

        for job in jobs:
            if function.endswith(":measure_job"):
                yield Outcome(job.name, "done", MeasuredRun(0.01, 0.03, 900.0, 10**8, "none").to_json(), "")
            else:
                _write(job.argument)
                yield Outcome(job.name, "done", {}, "")


def _write(job: dict[str, Any]) -> None:
    import numpy as np

    from penstock.run.records.sweep import HeldoutBytes, RungResult
    from penstock.sweep.files import SweepFiles, TrialFiles

    random = np.random.default_rng([int(job["key"], 16), job["seed"], job["tokens"]])
    bytes_D = np.random.default_rng(0).integers(200, 4000, DOCUMENTS)
    cell = int(hashlib.sha256(job["cell"].encode()).hexdigest()[:4], 16) / 65535
    mean = 1.5 + 0.2 * cell + 0.3 * 0.5 ** (job["tokens"] / 512)
    bits_D = bytes_D * (mean + 0.01 * random.standard_normal(DOCUMENTS))
    bits, size = float(bits_D.sum() / bytes_D.sum()), int(bytes_D.sum())
    sweep, trial = SweepFiles(Path(job["sweep"])), TrialFiles(Path(job["trial"]))
    run = sweep.folder / f"{job['key']}-{job['phase']}-{job['seed']}"
    run.mkdir(parents=True, exist_ok=True)
    trial.write_run(run)
    sweep.write_heldout(TEXT, HeldoutBytes(bytes_D.tolist()))
    trial.write_result(
        RungResult(
            cell_key=job["key"],
            cell=job["cell"],
            phase=job["phase"],
            seed=job["seed"],
            tokens=job["tokens"],
            steps=1,
            bits_per_byte=bits,
            perplexity=2**bits,
            loss=bits,
            text=TEXT,
            text_bytes=size,
            tokenizer="t",
            seconds=1.0,
            machine="none",
            document_bits=bits_D.tolist(),
        )
    )


@hookimpl
def launchers() -> list[Component]:
    return [Component(kind="launcher", name="instant", target="instant:Instant", summary="Trains nothing")]
