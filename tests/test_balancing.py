"""Every router, loss and balancer of the house trains a model, is resumed bit for bit, and is restored as it was.

One life a row: each is stopped after the third step and continued, and compared with the run that was not.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from crash import MICRO_BATCHES, STEPS, differences, kill_and_resume, outcome

from penstock.hooks.known import FIRST_PARTY

WITHOUT_BIAS = {"hash", "random", "round-robin", "token-hash"}
ROUTERS = sorted(name for kind, name in FIRST_PARTY if kind == "router")
WHOLE_BATCH = ("counts-first", "buffer", "lagged")
OURS = ("gini-loss", "variance-loss", "cv-loss", "entropy-loss", "sequence-loss", "z-loss")
STOPPED = [("_forward", 3 * MICRO_BATCHES, signal.SIGTERM)]


def config(tiny: Path, folder: Path, router: str, balance: str) -> Path:
    """The config of the runs that are killed, with another router and balance."""
    lines = tiny.read_text().splitlines()
    start, end = (
        next(n for n, line in enumerate(lines) if line.startswith(f"  {key}")) for key in ("router", "sharing")
    )
    path = folder / "run.yaml"
    path.write_text("\n".join([*lines[:start], f"  router: {router}", f"  balance: {balance}", *lines[end:], ""]))
    return path


def metrics(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def stopped_and_not(server, path: Path, folder: Path) -> Path:
    """Trains twice, once stopped and continued; asserts that both end alike and returns the run."""
    stopped, whole = (
        kill_and_resume(server, path, folder / name, **({"signals": STOPPED} if name == "stopped" else {}))
        for name in ("stopped", "whole")
    )
    assert "from step 3 of 6" in stopped.resumed.said
    assert differences(outcome(stopped.run), outcome(whole.run)) == []
    return whole.run


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_trains_and_resumes(server, tiny, tmp_path, router):
    bias = router not in WITHOUT_BIAS and router != "expert-choice"
    path = config(tiny, tmp_path, router, "[{use: loss-free, rate: 0.01}]" if bias else "[]")
    rows = metrics(stopped_and_not(server, path, tmp_path))
    assert len(rows) == STEPS
    assert all(row["load/max_violation"] >= 0 for row in rows)
    if router == "round-robin":
        assert max(row["load/max_violation"] for row in rows) == 0


@pytest.mark.parametrize("counts", WHOLE_BATCH)
def test_every_scope_and_loss_at_once_trains_and_resumes(server, tiny, tmp_path, counts):
    balance = [f"{{use: {name}}}" for name in OURS[4:]] + ["quantile"]
    balance += [f"{{use: {name}, counts: {counts}}}" for name in (*OURS[:4], "global-loss")]
    router = "{use: softmax-topk, capacity: 1.0, noise: 1.0, temperature: 0.5}"
    rows = metrics(stopped_and_not(server, config(tiny, tmp_path, router, f"[{', '.join(balance)}]"), tmp_path))
    for name in (*OURS, "global-loss"):
        assert all(row[f"balance/{name}"] >= 0 for row in rows)
    assert all(row["load/dropped"] > 0 for row in rows)
    error = [row.get("balance/global-loss/gradient_error") for row in rows]
    match counts:
        case "counts-first":
            assert error == [None] * STEPS
        case "lagged":
            assert error[0] == 1  # no step before: as wrong as no loss at all
        case _:
            assert all(each is not None and each > 0 for each in error)
