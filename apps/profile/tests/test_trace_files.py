"""Public traces become ours with their totals; a trace on the command line gives its table and page."""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.hooks.trace import RoutingTrace
from penstock.profile import specialisation
from penstock.profile.specialisation import coactivation
from penstock.profile.trace_files import read_traces


def public(name: str) -> Path:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no public traces here")
    path = Path(os.environ["PENSTOCK_DATA"]) / "moe_traces" / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def counts_table(models: dict[str, dict[str, list[dict[str, int]]]]) -> str:
    return json.dumps({"models": {name: {"expert_counts": domains} for name, domains in models.items()}})


def pair_table(*pairs: list[list[int]]) -> str:
    return json.dumps({"models": {"mistral": {"expert_counts_crosslayer": {"a": pairs}}}})


def vllm_lines(warm_up: int) -> str:
    rows = [{"token_idx": index, "topk_ids": [3, 1]} for index in range(warm_up)]
    rows += [{"token_idx": index, "topk_ids": [index % 2, 2]} for index in range(6)]
    rows += [{"token_idx": index, "topk_ids": [0, 3]} for index in range(2)]
    meta = {"type": "meta", "model_id": "a/b", "num_experts": 5}
    return "\n".join(json.dumps(line) for line in [meta, *({"type": "route", "layer": 0, **row} for row in rows)])


def test_published_counts_sum_to_the_published_tokens():
    traces = read_traces(public("olmoe_mixtral_expert_counts.json"))
    assert set(traces) == {"olmoe", "olmoe-sft", "olmoe-dpo", "mistral"}
    for name, trace in traces.items():
        per_domain = trace.counts_SLE.sum(axis=2) / trace.header["k"]
        # The chat data `tulu` is a little shorter than the five domains of pretraining.
        expected = [205_243 if domain == "tulu" else 208_896 for domain in trace.header["domains"]]
        assert (per_domain == np.array(expected)[:, None]).all(), name


def test_published_pairs_of_layers_have_the_load_of_the_published_counts():
    counts = read_traces(public("olmoe_mixtral_expert_counts.json"))
    for name, trace in read_traces(public("olmoe_mixtral_expert_counts_crosslayer.json.xz")).items():
        assert (trace.counts_SLE.sum(axis=2) == 208_896 * trace.header["k"]).all()
        row = [counts[name].header["domains"].index(domain) for domain in trace.header["domains"]]
        assert (trace.counts_SLE == counts[name].counts_SLE[row]).all()


@pytest.mark.parametrize(
    ("name", "warm_up", "tokens", "experts", "k"),
    [
        ("olmoe-1b-7b_gsm8k_layer0_vllm.jsonl.xz", 2048, 6519 - 2048, 64, 8),
        ("qwen1.5-moe-a2.7b-chat_gsm8k_layer0_vllm.jsonl.xz", 2 * 8192, 18818 - 2 * 8192, 60, 4),
    ],
)
def test_published_choices_are_read_without_the_warm_up(name, warm_up, tokens, experts, k):
    (trace,) = read_traces(public(name)).values()
    assert trace.header["dropped_warm_up"] == warm_up
    assert trace.counts_SLE.shape[1:] == (1, experts)
    assert trace.counts_LE.sum() == tokens * k
    assert trace.expert_NLK is not None
    assert trace.expert_NLK.shape == (tokens, 1, k)


def test_olmoe_is_specialised_and_mixtral_is_not(tmp_path):
    page = tmp_path / "atlas.html"
    result = run(["profile", str(public("olmoe_mixtral_expert_counts.json")), "--report", str(page)])
    told = {
        model["model"]: {layer["specialisation"]["verdict"].split(", ")[1] for layer in model["layers"]}
        for model in result["models"]
    }
    assert told["olmoe"] == {"specialised"}
    assert told["mistral"] == {"no specialisation"}
    assert page.read_text().count("<img") == 4 + 4 * 3


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_a_table_of_counts_becomes_a_step_a_domain(tmp_path, suffix):
    domains = {"code": [{"0": 4, "7": 2}] * 3, "prose": [{"1": 6}] * 3}
    path = tmp_path / f"counts.json{suffix}"
    text = counts_table({"mistral": domains}).encode()
    path.write_bytes(lzma.compress(text) if suffix else text)
    (trace,) = read_traces(path).values()
    assert trace.header["domains"] == ["code", "prose"]
    assert trace.counts_SLE[:, 0].tolist() == [[4, 0, 0, 0, 0, 0, 0, 2], [0, 6, 0, 0, 0, 0, 0, 0]]


def test_pairs_of_layers_are_loads_and_what_one_layer_tells_about_the_next(tmp_path):
    even = [[row, column, 2] for row in range(2) for column in range(2)]
    (tmp_path / "pairs.json").write_text(pair_table([[0, 1, 4], [1, 0, 4]], even))
    page = tmp_path / "page.html"
    (model,) = run(["profile", str(tmp_path / "pairs.json"), "--report", str(page)])["models"]
    assert [layer["counts"] for layer in model["layers"]] == [[4, 4]] * 3
    assert [pair["layers"] for pair in model["pairs"]] == [[0, 15], [15, 31]]
    assert [pair["information_bits"] for pair in model["pairs"]] == pytest.approx([1, 0])
    assert "From layer to layer" in page.read_text()


@pytest.mark.parametrize(("warm_up", "dropped"), [(0, 0), (3, 0), (1024, 1024)])
def test_only_a_long_run_of_one_choice_is_warm_up(tmp_path, warm_up, dropped):
    path = tmp_path / "trace.jsonl"
    path.write_text(vllm_lines(warm_up))
    (trace,) = read_traces(path).values()
    assert trace.header["dropped_warm_up"] == dropped
    assert trace.expert_NLK is not None
    assert len(trace.expert_NLK) == warm_up - dropped + 8
    assert trace.counts_SLE[-1].tolist() == [[2, 0, 0, 2, 0]]
    assert trace.counts_SLE[-2].tolist() == [[3, 3, 6, 0, 0]]


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
    assert all(title in html for title in ("Load", "Preferences of domains", "Experts of the same token"))


def test_the_table_says_that_without_domains_nothing_is_known(tmp_path, capsys):
    RoutingTrace(np.ones((1, 1, 4), dtype=np.int64), {"k": 2}).save(tmp_path / "a.npz")
    run(["profile", str(tmp_path / "a.npz")])
    assert "even load may be that of experts that are alike" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not a routing trace"),
        ("a.json", "[]", "not a routing trace"),
        ("a.json", '{"models": {"x": {}}}', "no model of it has `expert_counts`"),
        ("a.json", pair_table([[0, 1, 5]], [[0, 1, 5]]), "disagree on the load of the layer between"),
        ("a.json", pair_table([[0, 1, -5]], [[1, 1, -5]]), "negative counts"),
        ("a.json", counts_table({"unheard": {"a": [{"0": 1}]}}), "how many experts a token of unheard takes"),
        ("a.json", counts_table({"mistral": {"a": [{"0": -1}] * 3}}), "negative counts"),
        ("a.jsonl", vllm_lines(0).replace("topk_ids", "ids"), "topk_ids"),
        ("a.jsonl", vllm_lines(0).replace('"num_experts": 5', '"num_experts": 2'), "not a routing trace"),
        ("a.jsonl", "\n".join(vllm_lines(2000).splitlines()[:2001]), "all of its tokens are of one choice"),
        ("a.jsonl", '{"model_id": "x"}', "not a routing trace"),
        ("a.json.xz", "not xz", "not a routing trace"),
        ("a.npz", "not zip", "not a routing trace"),
        ("a.txt", "text", "not a routing trace"),
    ],
)
def test_a_file_that_is_no_trace_is_said_and_no_page_is_written(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ProblemError, match=message):
        run(["profile", str(tmp_path / name), "--report", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("counts", "header", "message"),
    [
        ([[[0, 0]]], {"k": 1}, "no assignments"),
        ([[[1, 1]]], {"domains": ["a"]}, "'k' .* is None"),
        ([[[3, 1]]], {"k": 2, "domains": ["a"]}, "more often than there are tokens"),
        ([[[1, 1]]], {"k": 1, "pairs": [[[1]]]}, r"'pairs' is no table of counts \[0, 2, 2\]"),
        ([[[1, 1]]], {"k": 1, "pairs": [[1], 2]}, "'pairs' is no table"),
        ([[[1, 1]]], {"k": True, "domains": ["a"]}, "'k' .* is True"),
        ([[[1, 1]]], {"k": 1, "domains": ["a", "b"]}, "'domains' is not a list of 1 names, one a step"),
        ([[[1, 1]]], {"k": 1, "domains": True}, "'domains' is not a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": None}, "'domains' is not a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": [["a"]]}, "'domains' is not a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": [1]}, "'domains' is not a list of 1 names"),
        ([[[1, 1]]], {"k": 1, "domains": [None]}, "'domains' is not a list of 1 names"),
        ([[[1, 1], [1, 1]]], {"k": 1, "layers": [1]}, "'layers' is not a list of 2 integers, one a layer"),
        ([[[1, 1]]], {"k": 1, "layers": 3}, "'layers' is not a list of 1 integers"),
        ([[[1, 1]]], {"k": 1, "layers": ["3"]}, "'layers' is not a list of 1 integers"),
        ([[[1, 1]]], {"k": 1, "dropped_warm_up": "x"}, "'dropped_warm_up' is not a number of rows"),
        ([[[1, 1]]], {"k": 1, "dropped_warm_up": -1}, "'dropped_warm_up' is not a number of rows"),
    ],
)
def test_a_header_that_does_not_fit_is_said(tmp_path, counts, header, message):
    RoutingTrace(np.array(counts), header).save(tmp_path / "a.npz")
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
