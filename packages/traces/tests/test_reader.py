"""Every format through the one reader: what it says, and damaged files refused with where and what."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.hooks.problems import ProblemError
from penstock.traces.reader import read_trace, read_traces
from penstock.traces.trace import RoutingTrace

SGLANG = Path(__file__).parent / "data" / "sglang.pt"
"""Written by torch.save: {"rank": 0, "logical_count": torch.arange(24, dtype=torch.int32).view(2, 3, 4), ...}."""


def log_text(warm_up: int = 0, layers: tuple[int, ...] = (3,), experts: int = 5) -> str:
    """A batch of 6 tokens after a warm-up, then a batch of 2."""
    rows = [{"token_idx": index, "topk_ids": [3, 1]} for index in range(warm_up)]
    rows += [{"token_idx": index, "topk_ids": [index % 2, 2]} for index in range(6)]
    rows += [{"token_idx": index, "topk_ids": [0, 3]} for index in range(2)]
    meta = {"type": "meta", "model_id": "a/b", "num_experts": experts}
    routes = ({"type": "route", "layer": layer, **row} for row in rows for layer in layers)
    return "\n".join(json.dumps(line) for line in [meta, *routes])


def table_text(**models: Any) -> str:
    return json.dumps({"models": models})


def counts_text(domains: Any, model: str = "mistral", **more: Any) -> str:
    return table_text(**{model: {"expert_counts": domains, **more}})


def pairs_text(*pairs: list[list[int]], model: str = "mistral") -> str:
    return table_text(**{model: {"expert_counts_crosslayer": {"a": pairs}}})


def written(path: Path, text: str) -> Path:
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


def only(path: Path) -> RoutingTrace:
    (trace,) = read_traces(path).values()
    return trace


def test_a_trace_of_ours_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = RoutingTrace(np.array([[[1, 1]]]), {"k": 1, "model": "ours"}, np.array([[[0]], [[1]]]))
    written.save(tmp_path / "a.npz")
    read = read_traces(tmp_path / "a.npz")
    assert read.keys() == {"ours"}
    assert read["ours"].header == written.header
    np.testing.assert_array_equal(read["ours"].counts_SLE, written.counts_SLE)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.xz"])
def test_a_log_of_vllm_has_a_step_a_batch_and_its_layers(tmp_path: Path, name: str) -> None:
    trace = only(written(tmp_path / name, log_text(layers=(3, 7))))
    assert trace.header == {"model": "a/b", "k": 2, "layers": [3, 7], "tokens": 8, "dropped_warm_up": 0}
    assert trace.counts_SLE.tolist() == [[[3, 3, 6, 0, 0]] * 2, [[2, 0, 0, 2, 0]] * 2]
    assert trace.expert_NLK is not None
    assert trace.expert_NLK[1].tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(("warm_up", "dropped"), [(0, 0), (3, 0), (1023, 0), (1024, 1024)])
def test_only_a_long_run_of_one_choice_is_warm_up(tmp_path: Path, warm_up: int, dropped: int) -> None:
    trace = only(written(tmp_path / "a.jsonl", log_text(warm_up)))
    assert trace.header["dropped_warm_up"] == dropped
    assert trace.header["tokens"] == trace.counts_SLE.sum() / 2 == warm_up - dropped + 8
    assert trace.counts_SLE[-2:].tolist() == [[[3, 3, 6, 0, 0]], [[2, 0, 0, 2, 0]]]


def test_a_table_of_counts_has_a_step_a_domain_and_what_is_known_of_the_model(tmp_path: Path) -> None:
    domains = {"code": [{"0": 4, "7": 2}] * 3, "prose": [{"1": 6}] * 3}
    trace = only(written(tmp_path / "a.json.xz", counts_text(domains)))
    assert trace.header == {
        "model": "mistral",
        "k": 2,
        "hidden_size": 4096,
        "layers": [0, 15, 31],
        "domains": ["code", "prose"],
    }
    assert trace.counts_SLE[:, 0].tolist() == [[4, 0, 0, 0, 0, 0, 0, 2], [0, 6, 0, 0, 0, 0, 0, 0]]


def test_a_model_that_is_not_known_is_read_where_first_choices_tell_k(tmp_path: Path) -> None:
    counts = {"a": [{"0": 6, "2": 2}, {"1": 8}], "b": [{"0": 4, "1": 4}, {"1": 4, "2": 4}]}
    first = {"a": [{"0": 3, "2": 1}, {"1": 4}]}
    trace = only(written(tmp_path / "a.json", counts_text(counts, "m", expert_counts_top1=first)))
    assert (trace.header["k"], trace.header["layers"]) == (2, [0, 1])
    assert trace.counts_SLE.tolist() == [[[6, 0, 2], [0, 8, 0]], [[4, 4, 0], [0, 4, 4]]]


def test_a_table_may_say_which_layers_it_counts(tmp_path: Path) -> None:
    domains = {"a": {"layers": [2, 5], "counts": [{"0": 2, "1": 2}] * 2}}
    assert only(written(tmp_path / "a.json", counts_text(domains))).header["layers"] == [2, 5]


def test_pairs_of_layers_are_the_load_of_each_and_kept_in_the_header(tmp_path: Path) -> None:
    even = [[row, column, 2] for row in range(2) for column in range(2)]
    trace = only(written(tmp_path / "a.json", pairs_text([[0, 1, 4], [1, 0, 4]], even)))
    assert trace.counts_SLE.tolist() == [[[4, 4]] * 3]
    assert trace.header["layers"] == [0, 15, 31]
    assert trace.header["pairs"] == [[[0, 4], [4, 0]], [[2, 2], [2, 2]]]


def test_a_recording_of_sglang_has_a_step_a_pass_and_does_not_say_k() -> None:
    trace = only(SGLANG)
    assert trace.header == {"model": "sglang", "layers": [0, 1, 2]}
    np.testing.assert_array_equal(trace.counts_SLE, np.arange(24).reshape(2, 3, 4))


def test_one_trace_of_several_is_chosen_by_its_model(tmp_path: Path) -> None:
    domains = {"expert_counts": {"a": [{str(expert): 1 for expert in range(8)}] * 3}}
    path = written(tmp_path / "a.json", table_text(olmoe=domains, mistral=domains))
    assert read_trace(path).header["model"] == "olmoe"
    assert read_trace(path, "mistral").header["model"] == "mistral"
    with pytest.raises(ProblemError, match=r"unknown model 'gpt'.*choose one of olmoe, mistral"):
        read_trace(path, "gpt")


def refused(path: Path, code: str = "bad-trace") -> str:
    with pytest.raises(ProblemError) as caught:
        read_traces(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert problem.code == code
    return problem.what


CUT = "\n".join(log_text(layers=(3, 7)).splitlines()[:-1])


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.json", "{", "line 1 column 2"),
        ("a.json", "[]", "not a routing trace"),
        ("a.json", table_text(x={}), "no model in it has `expert_counts`"),
        ("a.json", table_text(), "no model in it has `expert_counts`"),
        ("a.json", counts_text({}), "have none"),
        ("a.json", counts_text({"a": [{"0": 1}] * 3, "b": [{"0": 1}] * 2}), "differ in their number of layers"),
        ("a.json", counts_text({"a": [{"0": 1}] * 2}), "counts of 2 layers"),
        ("a.json", counts_text({"a": [{"0": 1}] * 3}, "unheard"), "unknown number of experts per token of unheard"),
        ("a.json", counts_text({"a": [{"0": -1}] * 3}), "negative counts"),
        ("a.json", counts_text({"a": [{"0": 1, "-1": 1}] * 3}), "'-1' is not the number of an expert"),
        ("a.json", counts_text({"a": [{"1": 1, "01": 1}] * 3}), "'01' is not the number of an expert"),
        ("a.json", counts_text({"a": [{"9999999": 1}] * 3}), "'9999999' is not the number of an expert"),
        ("a.json", '{"models": {"mistral": {"expert_counts": {"a": [{"1": 1, "1": 2}]}}}}', "key '1' occurs twice"),
        ("a.json", counts_text({"a": [{"0": 3}]}, "m", expert_counts_top1={"a": [{"0": 0}]}), "3 assignments of 0"),
        ("a.json", counts_text({"a": [{"0": 3}]}, "m", expert_counts_top1={"a": [{"0": 2}]}), "3 assignments of 2"),
        ("a.json", counts_text({"a": [{"0": 1.5}] * 3}), "1.5 assignments of expert 0"),
        ("a.json", pairs_text([[0, 1, 5]], [[0, 1, 5]]), "disagree on the load of the layer between"),
        ("a.json", pairs_text([[0, 1, -5]], [[1, 1, -5]]), "not negative"),
        ("a.json", pairs_text([[0, -1, 5]], [[1, 1, 5]]), "not negative"),
        ("a.json", pairs_text([[0, 1]], [[1, 1]]), "triples of integers"),
        (
            "a.json",
            pairs_text([[0, 1, 5]], [[1, 1, 5]], model="unheard"),
            "unknown number of experts per token of unheard",
        ),
        ("a.jsonl", log_text().replace("topk_ids", "ids"), "line 2 has no 'topk_ids'"),
        ("a.jsonl", log_text() + "\n{", "line 10: "),
        ("a.jsonl", log_text().replace('"topk_ids": [1, 2]', '"topk_ids": [1.5, 2]', 1), "line 3: .* integers"),
        ("a.jsonl", log_text().replace('"topk_ids": [1, 2]', '"topk_ids": [1]', 1), "different numbers of experts"),
        ("a.jsonl", log_text().replace('"topk_ids": [1, 2]', '"topk_ids": [1, 1]', 1), r"line 3: .*twice: \[1, 1\]"),
        ("a.jsonl", log_text().replace('"topk_ids": [1, 2]', '"topk_ids": [-1, 2]', 1), "line 3: .*out of range"),
        ("a.jsonl", log_text().replace('"topk_ids": [1, 2]', '"topk_ids": []', 1), "line 3: .*out of range"),
        ("a.jsonl", log_text(layers=(-1,)), "line 2: .*out of range"),
        ("a.jsonl", log_text(experts=0), "line 1: `num_experts` is 0; it must be"),
        ("a.jsonl", log_text(experts=10**12), "line 1: `num_experts` is 1000000000000; it must be"),
        ("a.jsonl", log_text().replace('"num_experts": 5', '"num_experts": 5.5'), "line 1: `num_experts` is 5.5"),
        ("a.jsonl", log_text() + "\n[1]", "line 10: expected a JSON object, got list"),
        ("a.jsonl", log_text(experts=2), "experts 0 to 3, but only 2 experts"),
        ("a.jsonl", "\n".join(log_text(2000).splitlines()[:2001]), "all of its tokens chose the same experts"),
        ("a.jsonl", log_text().splitlines()[0], "no routed tokens"),
        ("a.jsonl", '{"type": "meta"}', "line 1 has no 'model_id'"),
        ("a.jsonl", CUT, "layers 3 and 7 have different tokens; the log may be truncated"),
        ("a.jsonl", "", "no routed tokens"),
        ("a.npz", "not zip", "not a routing trace"),
        ("a.pt", "not zip", "BadZipFile"),
        ("a.txt", "text", "not a routing trace"),
    ],
)
def test_what_is_no_trace_is_refused_with_where_and_what(tmp_path: Path, name: str, text: str, what: str) -> None:
    (tmp_path / name).write_text(text)
    assert re.search(what, refused(tmp_path / name))


@pytest.mark.parametrize("name", ["a.npz", "a.json", "a.json.xz", "a.jsonl", "a.jsonl.xz", "a.pt"])
def test_a_missing_file_is_named_whatever_its_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProblemError, match="trace not found") as caught:
        read_traces(tmp_path / name)
    assert [problem.where for problem in caught.value.problems] == [str(tmp_path / name)]


@pytest.mark.parametrize("name", ["a.json.xz", "a.jsonl.xz"])
def test_a_packed_file_that_is_cut_off_or_was_never_packed_is_refused(tmp_path: Path, name: str) -> None:
    whole = written(tmp_path / name, log_text() if "jsonl" in name else counts_text({"a": [{"0": 1}] * 3})).read_bytes()
    for content in (whole[:-7], whole[: len(whole) // 2], b"", b"not xz", whole + b"more"):
        (tmp_path / name).write_bytes(content)
        assert "compressed file is damaged" in refused(tmp_path / name, "damaged-file")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_a_log_in_several_streams_is_read_to_its_end_or_refused(tmp_path: Path, suffix: str) -> None:
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    lines = log_text().splitlines(keepends=True)
    parts = [compress("".join(half).encode()) for half in (lines[:5], lines[5:])]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"".join(parts))
    assert only(path).header["tokens"] == 8
    path.write_bytes(parts[0] + parts[1][:1] + b"?" + parts[1][2:])
    assert "stream 2" in refused(path, "damaged-file")


def public(name: str) -> Path:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no public traces here")
    path = Path(os.environ["PENSTOCK_DATA"]) / "moe_traces" / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def test_published_counts_sum_to_the_published_tokens() -> None:
    traces = read_traces(public("olmoe_mixtral_expert_counts.json"))
    assert set(traces) == {"olmoe", "olmoe-sft", "olmoe-dpo", "mistral"}
    for name, trace in traces.items():
        per_domain = trace.counts_SLE.sum(axis=2) / trace.header["k"]
        # The chat data `tulu` is a little shorter than the five domains of pretraining.
        expected = [205_243 if domain == "tulu" else 208_896 for domain in trace.header["domains"]]
        assert (per_domain == np.array(expected)[:, None]).all(), name


def test_published_pairs_of_layers_have_the_load_of_the_published_counts() -> None:
    counts = read_traces(public("olmoe_mixtral_expert_counts.json"))
    for name, trace in read_traces(public("olmoe_mixtral_expert_counts_crosslayer.json.xz")).items():
        assert (trace.counts_SLE.sum(axis=2) == 208_896 * trace.header["k"]).all()
        row = [counts[name].header["domains"].index(domain) for domain in trace.header["domains"]]
        assert (trace.counts_SLE == counts[name].counts_SLE[row]).all()
        assert trace.header["layers"] == counts[name].header["layers"]


@pytest.mark.parametrize(
    ("name", "warm_up", "tokens", "steps", "experts", "k"),
    [
        ("olmoe-1b-7b_gsm8k_layer0_vllm.jsonl.xz", 2048, 6519 - 2048, 1, 64, 8),
        ("qwen1.5-moe-a2.7b-chat_gsm8k_layer0_vllm.jsonl.xz", 2 * 8192, 18818 - 2 * 8192, 104, 60, 4),
    ],
)
def test_published_choices_are_read_without_the_warm_up(
    name: str, warm_up: int, tokens: int, steps: int, experts: int, k: int
) -> None:
    trace = only(public(name))
    assert trace.header["dropped_warm_up"] == warm_up
    assert trace.counts_SLE.shape == (steps, 1, experts)
    assert trace.counts_LE.sum() == tokens * k
    assert trace.expert_NLK is not None
    assert trace.expert_NLK.shape == (tokens, 1, k)
