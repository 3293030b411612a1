"""A trace file or a run directory gives the same prediction, and what is missing is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.traces.trace import RoutingTrace


def make_trace(**header) -> RoutingTrace:
    counts_SLE = np.random.default_rng(0).integers(50, 150, (3, 2, 8))
    return RoutingTrace(counts_SLE.astype(np.int64), {"layers": [1, 2], **header})


def test_a_trace_becomes_a_row_for_each_degree(tmp_path, capsys):
    path = tmp_path / "a.npz"
    make_trace(k=2, hidden_size=64).save(path)
    result = run(["simulate", str(path), "--gpus", "8,64", "--json"])
    assert json.loads(capsys.readouterr().out) == result
    assert [row["gpus"] for row in result["rows"]] == [8, 64]
    assert all(row["p50_seconds"] <= row["max_seconds"] for row in result["rows"])
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


def test_a_synthetic_trace_needs_no_file_and_a_page_holds_all_charts(tmp_path):
    page = tmp_path / "page.html"
    law = "synthetic:zipf,experts=16,k=2,layers=2,steps=3,tokens=128"
    result = run(["simulate", law, "--ep", "8,16", "--report", str(page)])
    assert result["report"] == str(page)
    text = page.read_text()
    titles = ("Exchange between experts", "Load of the GPUs", "Use of links", "Placements")
    assert all(title in text for title in titles)
    assert text.count("<svg") > len(titles)
    assert "Tail of the steps" not in text  # three steps have no tail
    assert "the longest of 3 takes" in text


def test_percentiles_need_enough_exchanges_and_steps(capsys):
    law = "synthetic:zipf,experts=16,k=2,layers=2,steps={},tokens=128"
    few, enough, many = (run(["simulate", law.format(steps), "--ep", "16"])["rows"][0] for steps in (6, 50, 100))
    assert (few["exchanges"], few["p99_seconds"], few["step_seconds"]["p99"]) == (12, None, None)
    assert (enough["exchanges"], enough["step_seconds"]["p99"], enough["step_quantiles"]) == (100, None, [])
    assert enough["p50_seconds"] <= enough["p99_seconds"] <= enough["max_seconds"]
    assert many["step_seconds"]["p50"] <= many["step_seconds"]["p99"] <= many["step_seconds"]["max"]
    assert len(many["step_quantiles"]) == 101
    tables = capsys.readouterr().out.split("slowdown")
    assert "p99" not in tables[0]
    assert "p99 of both" in tables[1]


def test_a_prediction_says_how_many_copies_its_experts_have(capsys):
    law = "synthetic:uniform,experts=8,k=2,layers=1,steps=2,tokens=128"
    result = run(["simulate", law, "--ep", "8,16,256"])
    assert [row["copies"] for row in result["rows"]] == [8, 16, 256]
    copies = "Copies of each of the 8 experts, by GPUs: 2 with 16, 32 with 256."
    assert result["notes"][0].startswith(copies)
    assert copies in capsys.readouterr().out
    spare = run(["simulate", law, "--ep", "4", "--placement", "{use: eplb, redundant: 4}"])
    assert "by GPUs, on average: 1.5 with 4." in spare["notes"][0]
    assert not any("Copies" in note for note in run(["simulate", law, "--ep", "8"])["notes"])


def test_a_core_that_takes_no_part_is_said_where_the_prediction_equals_two_level():
    law = "synthetic:uniform,experts=64,k=2,layers=1,steps=2,tokens=4096"
    tree = run(["simulate", law, "--ep", "16,64", "--topology", "{use: fat-tree, oversubscription: 8}"])
    flat = run(["simulate", law, "--ep", "16,64"])
    in_tree, in_flat = ([row["mean_seconds"] for row in result["rows"]] for result in (tree, flat))
    assert in_tree[0] == pytest.approx(in_flat[0])
    assert in_tree[1] > 2 * in_flat[1]
    (note,) = [note for note in tree["notes"] if "leaf switch" in note]
    assert note.startswith("With 16 GPUs all nodes are under one leaf switch: the core is not used")
    assert not any("leaf" in note for note in flat["notes"])


def test_tokens_that_are_sent_twice_are_said():
    law = "synthetic:zipf,experts=16,k={},layers=1,steps=2,tokens=128"
    (each,) = run(["simulate", law.format(2), "--ep", "16"])["notes"]
    (once,) = run(["simulate", law.format(2), "--ep", "16", "--deduplicate"])["notes"]
    assert each.startswith("A token is sent once for each of its experts, even if two of them are on one GPU or node.")
    assert once.startswith("A token is sent to each node once")
    assert run(["simulate", law.format(1), "--ep", "16"])["notes"] == []


def test_placements_that_do_not_fit_are_left_out_of_the_page_by_name(tmp_path, capsys):
    law = "synthetic:zipf,experts=12,k=2,layers=1,steps=2,tokens=128"
    page = tmp_path / "page.html"
    run(["simulate", law, "--ep", "5", "--placement", "{use: eplb, redundant: 3}", "--report", str(page)])
    assert page.stat().st_size > 1000
    assert "skipping placement contiguous: 12 experts do not divide evenly over 5 GPUs" in capsys.readouterr().err


def test_a_sweep_has_a_table_for_each_value(capsys):
    law = "synthetic:zipf,experts=16,k=2,layers=2,steps=3,tokens=128"
    result = run(["simulate", law, "--ep", "16", "--sweep", "hardware=a100,h100"])
    slow, fast = result["sweep"]["cases"]
    assert (slow["hardware"], fast["hardware"]) == ("a100", "h100")
    assert slow["rows"][0]["dispatch_seconds"] > fast["rows"][0]["dispatch_seconds"]
    assert capsys.readouterr().out.count("microseconds per layer") == 2


@pytest.mark.parametrize("fidelity", ["loggp", "fluid"])
def test_fidelities_deduplication_and_steps_are_options(fidelity):
    law = "synthetic:log-normal,experts=16,k=4,layers=1,steps=4,tokens=128"
    arguments = ["--ep", "16", "--topology", "{use: two-level, gpus_per_node: 4}", "--fidelity", fidelity]
    plain = run(["simulate", law, *arguments, "--steps", "2"])
    once = run(["simulate", law, *arguments, "--steps", "2", "--deduplicate"])
    assert plain["fidelity"] == fidelity
    assert once["rows"][0]["bytes_between_nodes"] < plain["rows"][0]["bytes_between_nodes"]


def test_a_dispatch_is_written_for_other_tools(tmp_path):
    law = "synthetic:uniform,experts=16,k=2,layers=1,steps=1,tokens=128"
    result = run(["simulate", law, "--ep", "8", "--export", "nccl-tests", str(tmp_path / "matrix.txt")])
    assert result["exported"] == [str(tmp_path / "matrix.txt")]
    assert np.loadtxt(tmp_path / "matrix.txt").shape == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthetic:zopf"], "did you mean 'zipf'"),
        (["synthetic:zipf,expert=4"], "not a trace setting"),
        (["synthetic:zipf,experts=64", "--ep", "24"], "do not divide"),
        (["synthetic:zipf", "--ep", "0"], "not a list of positive integers"),
        (["synthetic:zipf", "--topology", "{use: two-level, between_bandwidth: -1}"], "greater than 0"),
        (
            ["synthetic:zipf", "--ep", "8", "--topology", "{use: graph, links: [{between: [0, 1], bandwidth: 1}]}"],
            "GPU 0 cannot reach GPU 2",
        ),
        (["synthetic:zipf", "--sweep", "colour=red"], "cannot be swept"),
        (["synthetic:zipf", "--sweep", "placement"], "is not NAME=VALUE,VALUE"),
        (["synthetic:zipf", "--ep", "8", "--export", "gaol", "x"], "did you mean 'goal'"),
        (["nowhere.jsonl"], "trace not found"),
        (["nowhere.npz,k=3"], "cannot be set for a recorded trace"),
    ],
)
def test_bad_input_is_a_problem_of_usage(arguments, message):
    with pytest.raises(ProblemError, match=message) as caught:
        run(["simulate", *arguments])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        ({"k": 2}, [], "add --hidden-size"),
        ({"hidden_size": 8}, [], "does not give k"),
        ({"k": 2, "hidden_size": 8}, ["--gpus", "8,many"], "not a list of positive integers"),
        ({"k": 2, "hidden_size": 8}, ["--gpus", "7"], "7"),
        ({"k": 2, "hidden_size": 8}, ["--topology", "{use: two-level, hardware: h900}"], "hardware"),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, header, arguments, message):
    path = tmp_path / "a.npz"
    make_trace(**header).save(path)
    with pytest.raises(ProblemError, match=message):
        run(["simulate", str(path), *arguments])
