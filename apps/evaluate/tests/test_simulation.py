"""A trace file or a run directory gives the same prediction, and what is missing is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.hooks.trace import RoutingTrace


def make_trace(**header) -> RoutingTrace:
    counts_SLE = np.random.default_rng(0).integers(50, 150, (3, 2, 8))
    return RoutingTrace(counts_SLE.astype(np.int64), {"layers": [1, 2], **header})


def test_a_trace_becomes_a_row_for_each_degree(tmp_path, capsys):
    path = tmp_path / "a.npz"
    make_trace(k=2, hidden_size=64).save(path)
    result = run(["simulate", str(path), "--gpus", "8,64", "--json"])
    assert json.loads(capsys.readouterr().out) == result
    assert [row["gpus"] for row in result["rows"]] == [8, 64]
    assert all(row["p50_seconds"] <= row["p99_seconds"] <= row["max_seconds"] for row in result["rows"])
    assert result["hardware"] == "h800"


def test_wider_tokens_and_slower_networks_take_longer(tmp_path):
    path = tmp_path / "a.npz"
    make_trace(k=2, hidden_size=512).save(path)
    plain, wide, slow = (
        run(["simulate", str(path), "--gpus", "16", *more])["rows"][0]["dispatch_seconds"]
        for more in ([], ["--hidden-size", "1024"], ["--topology", "{use: two-level, between_bandwidth: 1e9}"])
    )
    assert plain < wide
    assert plain < slow


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        ({"k": 2}, [], "add --hidden-size"),
        ({"hidden_size": 8}, [], "does not say k"),
        ({"k": 2, "hidden_size": 8}, ["--gpus", "8,many"], "not a list of numbers"),
        ({"k": 2, "hidden_size": 8}, ["--gpus", "7"], "7"),
        ({"k": 2, "hidden_size": 8}, ["--topology", "{use: two-level, hardware: h900}"], "hardware"),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, header, arguments, message):
    path = tmp_path / "a.npz"
    make_trace(**header).save(path)
    with pytest.raises(ProblemError, match=message):
        run(["simulate", str(path), *arguments])
