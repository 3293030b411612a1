"""A trace on the command line gives its table and page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.traces import specialisation
from penstock.traces.specialisation import coactivation
from penstock.traces.trace import FORMAT, RoutingTrace


def public(name: str) -> Path:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no public traces here")
    path = Path(os.environ["PENSTOCK_DATA"]) / "moe_traces" / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def pair_table(*pairs: list[list[int]]) -> str:
    return json.dumps({"models": {"mistral": {"expert_counts_crosslayer": {"a": pairs}}}})


LIGHT_PROFILE = """
import sys
from penstock.cli.main import run
run(["profile", sys.argv[1], "--json"])
assert "torch" not in sys.modules
"""


def test_profile_of_a_trace_imports_no_torch(tmp_path):
    RoutingTrace(np.ones((1, 1, 4), dtype=np.int64), {"k": 2}).save(tmp_path / "a.npz")
    done = subprocess.run(
        [sys.executable, "-c", LIGHT_PROFILE, str(tmp_path / "a.npz")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_olmoe_depends_on_the_domain_and_mixtral_does_not(tmp_path):
    page = tmp_path / "atlas.html"
    result = run(["profile", str(public("olmoe_mixtral_expert_counts.json")), "--report", str(page)])
    told = {
        model["model"]: {layer["specialisation"]["verdict"].split(", ")[1] for layer in model["layers"]}
        for model in result["models"]
    }
    assert told["olmoe"] == {"depends on the domain (perhaps only by its words)"}
    assert told["mistral"] == {"no specialisation"}
    assert page.read_text().count("<img") == 4 + 4 * 3


def test_pairs_of_layers_are_loads_and_what_one_layer_tells_about_the_next(tmp_path):
    even = [[row, column, 2] for row in range(2) for column in range(2)]
    (tmp_path / "pairs.json").write_text(pair_table([[0, 1, 4], [1, 0, 4]], even))
    page = tmp_path / "page.html"
    (model,) = run(["profile", str(tmp_path / "pairs.json"), "--report", str(page)])["models"]
    assert [layer["counts"] for layer in model["layers"]] == [[4, 4]] * 3
    assert [pair["layers"] for pair in model["pairs"]] == [[0, 15], [15, 31]]
    assert [pair["information_bits"] for pair in model["pairs"]] == pytest.approx([1, 0])
    assert "Experts across layers" in page.read_text()


def test_a_trace_of_ours_is_shown_with_domains_and_pairs(tmp_path, capsys):
    expert_NLK = np.array([[[0, 1]], [[0, 1]], [[2, 3]], [[2, 3]]])
    counts_SLE = np.array([[[2, 2, 0, 0]], [[0, 0, 2, 2]]])
    RoutingTrace(counts_SLE, {"k": 2, "layers": [5], "domains": ["a", "b"]}, expert_NLK).save(tmp_path / "a.npz")
    page = tmp_path / "page.html"
    result = run(["profile", str(tmp_path / "a.npz"), "--report", str(page), "--json"])
    assert json.loads(capsys.readouterr().out) == result
    (layer,) = result["models"][0]["layers"]
    assert (layer["layer"], layer["max_violation"], layer["max_over_min"]) == (5, 0, 1)
    assert layer["specialisation"]["information_bits"] == 1
    assert layer["specialisation"]["domains"]["a"]["share"] == [1, 1, 0, 0]
    html = page.read_text()
    assert all(title in html for title in ("Load", "Domain preferences", "Experts of the same token"))


def test_the_table_says_that_without_domains_nothing_is_known(tmp_path, capsys):
    RoutingTrace(np.ones((1, 1, 4), dtype=np.int64), {"k": 2}).save(tmp_path / "a.npz")
    run(["profile", str(tmp_path / "a.npz")])
    assert "without domains, specialisation is unknown" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.npz", "a.pt"])
def test_a_file_that_is_no_trace_is_said_and_no_page_is_written(tmp_path, name):
    (tmp_path / name).write_text("{")
    with pytest.raises(ProblemError, match="not a routing trace"):
        run(["profile", str(tmp_path / name), "--report", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("counts", "header", "message"),
    [
        ([[[0, 0]]], {"k": 1}, "no assignments"),
        ([[[1, 1]]], {"domains": ["a"]}, "'k' .* is None"),
        ([[[3, 1]]], {"k": 2, "domains": ["a"]}, "by more tokens than there are"),
        ([[[1, 1]]], {"k": 1, "pairs": [[[1]]]}, r"'pairs' must be a table of counts \[0, 2, 2\]"),
        ([[[1, 1]]], {"k": 1, "pairs": [[1], 2]}, "'pairs' must be a table"),
        ([[[1, 1]]], {"k": True, "domains": ["a"]}, "'k' .* is True"),
        ([[[1, 1]]], {"k": 1, "domains": ["a", "b"]}, "'domains' must be a list of 1 names, one per step"),
        ([[[1, 1]]], {"k": 1, "domains": True}, "'domains' must be a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": None}, "'domains' must be a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": [["a"]]}, "'domains' must be a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": [1]}, "'domains' must be a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": [None]}, "'domains' must be a list of 1 names"),
        ([[[1, 1], [1, 1]]], {"k": 1, "layers": [1]}, "'layers' must be a list of 2 integers, one per layer"),
        ([[[1, 1]]], {"k": 1, "layers": 3}, "'layers' must be a list of 1 integers"),
        ([[[1, 1]]], {"k": 1, "layers": ["3"]}, "'layers' must be a list of 1 integers"),
        ([[[1, 1]]], {"k": 1, "dropped_warm_up": "x"}, "'dropped_warm_up' is .* must be an integer of at least 0"),
        ([[[1, 1]]], {"k": 1, "dropped_warm_up": -1}, "'dropped_warm_up' is .* must be an integer of at least 0"),
    ],
)
def test_a_header_that_does_not_fit_is_said(tmp_path, counts, header, message):
    written = json.dumps({**header, "format": FORMAT}).encode()  # not by RoutingTrace, which would refuse some of them
    np.savez(tmp_path / "a.npz", counts_SLE=np.array(counts), header=np.frombuffer(written, dtype=np.uint8))
    with pytest.raises(ProblemError, match=message):
        run(["profile", str(tmp_path / "a.npz"), "--report", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()


def test_pairs_of_layers_without_numbers_are_those_of_the_rows(tmp_path):
    RoutingTrace(np.array([[[1, 1], [1, 1]]]), {"k": 1, "pairs": [[[1, 0], [0, 1]]]}).save(tmp_path / "a.npz")
    (model,) = run(["profile", str(tmp_path / "a.npz")])["models"]
    assert [pair["layers"] for pair in model["pairs"]] == [[0, 1]]


def test_pairs_of_experts_are_counted_once_for_figures_and_page(tmp_path, monkeypatch):
    counted = []

    def counting(expert_NK, experts):
        counted.append(experts)
        return coactivation(expert_NK, experts)

    monkeypatch.setattr(specialisation, "coactivation", counting)
    expert_NLK = np.array([[[0, 1], [0, 1]], [[2, 3], [0, 2]]])
    counts_SLE = np.array([[[1, 1, 1, 1], [2, 1, 1, 0]]])
    RoutingTrace(counts_SLE, {"k": 2}, expert_NLK).save(tmp_path / "a.npz")
    run(["profile", str(tmp_path / "a.npz"), "--report", str(tmp_path / "page.html")])
    assert counted == [4, 4]


def test_a_trace_is_read_as_a_whole(tmp_path):
    RoutingTrace(np.ones((1, 1, 4), dtype=np.int64), {"k": 2}).save(tmp_path / "a.npz")
    with pytest.raises(ProblemError, match="--max-tokens"):
        run(["profile", str(tmp_path / "a.npz"), "--max-tokens", "5"])
