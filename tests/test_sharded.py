"""Two ranks that hold half of each parameter have every bit of one process with two micro-batches, whatever the model.

What is the same for every model is a law of the conformance kit; these are the models and recipes of this workspace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sharded

LIMIT = 480  # seconds for all cases, which take 40 on one idle core: a hang is a failure
EXACT = [name for name in sharded.CASES if name != "online-router"]
RANKS = range(2)


def train_all(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, sharded.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


@pytest.fixture(scope="module")
def results(once: Callable[..., Path]) -> dict[str, Any]:
    """What one process, each of two ranks, and each of three ended with, by case."""
    folder = once("sharded", train_all)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    ("group", "case"), [*(("2", case) for case in EXACT), *(("ddp", case) for case in sharded.WHOLE)]
)
def test_two_ranks_have_every_bit_of_one_process(results: dict[str, Any], group: str, case: str, rank: int) -> None:
    """Losses, norms that clip, loads, weights, buffers, and the optimizer's state."""
    alone, found = results["alone"][case], results[f"{group}-{rank}"][case]
    assert found["said"] == alone["said"]
    assert [name for name in alone["bits"] if found["bits"].get(name) != alone["bits"][name]] == []
    assert found["bits"].keys() == alone["bits"].keys()
    assert all(float.fromhex(norm) > sharded.CLIP for norm, *_ in alone["said"])


@pytest.mark.parametrize("rank", RANKS)
def test_routers_that_learn_from_sums_over_tokens_differ_by_their_rounding(results: dict[str, Any], rank: int) -> None:
    alone, found = results["alone"]["online-router"], results[f"2-{rank}"]["online-router"]
    assert found["centroids"] == pytest.approx(alone["centroids"], rel=1e-5, abs=1e-7)
    assert results["2-0"]["online-router"] == results["2-1"]["online-router"]


@pytest.mark.parametrize("case", sharded.CASES)
def test_a_rank_holds_half_of_parameters_gradients_and_state(results: dict[str, Any], case: str) -> None:
    alone = results["alone"][case]["bytes"]
    assert all(results[f"2-{rank}"][case]["bytes"] <= 0.55 * alone for rank in RANKS)


@pytest.mark.parametrize("case", sharded.THREE)
def test_three_ranks_are_one_model_of_which_each_holds_a_third(results: dict[str, Any], case: str) -> None:
    found = [results[f"3-{rank}"][case] for rank in range(3)]
    assert found[0]["bits"] == found[1]["bits"] == found[2]["bits"]
    assert found[0]["said"] == found[1]["said"] == found[2]["said"]
    assert all(each["bytes"] <= 0.4 * results["alone"][case]["bytes"] for each in found)
