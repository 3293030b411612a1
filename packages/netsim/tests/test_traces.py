"""Traces of other programs, made here line by line, and the published ones where they are."""

import json
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from penstock.hooks import ProblemError
from penstock.netsim.traces import from_counts, read_trace
from penstock.traces.trace import RoutingTrace


def token_log(path: Path, tokens: int = 1200) -> Path:
    lines = [json.dumps({"type": "meta", "model_id": "toy", "num_experts": 6})]
    for token in range(tokens):
        for layer in (3, 5):
            lines.append(json.dumps({"type": "route", "layer": layer, "topk_ids": [token % 6, (token + layer) % 6]}))
    with lzma.open(path, "wt") if path.suffix == ".xz" else path.open("w") as file:
        file.write("\n".join(lines))
    return path


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.xz"])
def test_a_token_log_becomes_steps_of_512_tokens(tmp_path, name):
    trace = read_trace(token_log(tmp_path / name))
    assert trace.counts_SLE.shape == (2, 2, 6)
    assert trace.counts_SLE.sum(axis=-1).tolist() == [[1024, 1024], [2 * 688, 2 * 688]]
    assert (trace.header["k"], trace.header["layers"], trace.header["model"]) == (2, [3, 5], "toy")
    assert trace.expert_NLK is not None
    assert trace.expert_NLK[7].tolist() == [[1, 4], [1, 0]]


def test_published_counts_become_a_step_a_domain_and_say_k(tmp_path):
    path = tmp_path / "counts.json"
    counts = {"a": [{"0": 6, "2": 2}, {"1": 8}], "b": [{"0": 4, "1": 4}, {"1": 4, "2": 4}]}
    top1 = {"a": [{"0": 3, "2": 1}, {"1": 4}]}
    path.write_text(json.dumps({"models": {"m": {"expert_counts": counts, "expert_counts_top1": top1}}}))
    trace = read_trace(path)
    assert trace.counts_SLE.tolist() == [[[6, 0, 2], [0, 8, 0]], [[4, 4, 0], [0, 4, 4]]]
    assert (trace.header["k"], trace.header["domains"]) == (2, ["a", "b"])
    with pytest.raises(ProblemError, match="choose of m"):
        read_trace(path, "other")


def test_counts_of_a_recording_keep_their_axes():
    trace = from_counts(np.ones((4, 3, 8), dtype=np.float32) * 2, k=2, model="sglang")
    assert (trace.counts_SLE.shape, trace.header["layers"], trace.header["model"]) == ((4, 3, 8), [0, 1, 2], "sglang")


def test_our_own_traces_are_read_too(tmp_path):
    RoutingTrace(np.ones((1, 1, 4), dtype=np.int64), {"k": 1}).save(tmp_path / "own.npz")
    assert read_trace(tmp_path / "own.npz").header == {"k": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "{", "damaged"),
        ("a.jsonl", '{"type": "meta"}', "no routed token"),
        ("a.jsonl.xz", "not xz", "damaged"),
        ("a.json", '{"models": {}}', "damaged|no model"),
        ("a.json", "[]", "damaged"),
        ("a.npz", "zip?", "not a routing trace"),
    ],
)
def test_damaged_files_are_problems(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ProblemError, match=message):
        read_trace(tmp_path / name)


@pytest.mark.parametrize("name", ["none.jsonl", "none.npz", "none.json.xz"])
def test_missing_files_are_problems(tmp_path, name):
    with pytest.raises(ProblemError, match="no such trace"):
        read_trace(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "model", "shape", "k"),
    [
        ("olmoe_mixtral_expert_counts.json", "olmoe", (6, 3, 64), 8),
        ("olmoe_mixtral_expert_counts.json", "mistral", (5, 3, 8), 2),
        ("olmoe-1b-7b_gsm8k_layer0_vllm.jsonl.xz", None, (12, 1, 64), 8),
        ("qwen1.5-moe-a2.7b-chat_gsm8k_layer0_vllm.jsonl.xz", None, (36, 1, 60), 4),
    ],
)
def test_public_traces(name, model, shape, k):
    path = Path(os.environ.get("PENSTOCK_DATA", "")) / "moe_traces" / name
    if "PENSTOCK_DATA" not in os.environ or not path.exists():
        pytest.skip(f"{path} is absent: PENSTOCK_DATA names the folder of the public traces")
    trace = read_trace(path, model)
    assert (trace.counts_SLE.shape, trace.header["k"]) == (shape, k)
