"""Every command sees the same trace in a file, of every format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.simulate.simulation import load_trace


def public(name: str) -> Path:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no public traces here")
    path = Path(os.environ["PENSTOCK_DATA"]) / "moe_traces" / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def vllm_log(path: Path) -> Path:
    """A warm-up of 1,024 tokens, a batch of 6 and a batch of 2, in the layers 3 and 7."""
    chosen = [(index, [3, 1]) for index in range(1024)]
    chosen += [(index, [index % 2, 2]) for index in range(6)]
    chosen += [(index, [0, 3]) for index in range(2)]
    meta = {"type": "meta", "model_id": "a/b", "num_experts": 4}
    routes = (
        {"type": "route", "layer": layer, "token_idx": index, "topk_ids": experts}
        for index, experts in chosen
        for layer in (3, 7)
    )
    path.write_text("\n".join(json.dumps(line) for line in (meta, *routes)))
    return path


def seen_by_profile(path: Path) -> dict[str, Any]:
    return {
        model["model"]: [(layer["layer"], layer["counts"]) for layer in model["layers"]]
        for model in run(["profile", str(path)])["models"]
    }


def seen_by_simulate(path: Path, models: Iterable[str], suffix: str = "") -> dict[str, Any]:
    traces = {name: load_trace(f"{path}{suffix.format(name)}") for name in models}
    return {
        name: list(zip(trace.header["layers"], trace.counts_LE.tolist(), strict=True)) for name, trace in traces.items()
    }


def test_profile_and_simulate_see_the_same_log_without_its_warm_up(tmp_path):
    seen = seen_by_profile(vllm_log(tmp_path / "a.jsonl"))
    assert seen == {"a/b": [(3, [5, 3, 6, 2]), (7, [5, 3, 6, 2])]}
    assert seen_by_simulate(tmp_path / "a.jsonl", seen) == seen
    result = run(["simulate", str(tmp_path / "a.jsonl"), "--ep", "4", "--hidden-size", "64"])
    assert result["rows"][0]["load"] == [1.5, 0.5, 1, 1]  # the mean of the batches' [1, 1, 2, 0] and [2, 0, 0, 2]
    assert result["rows"][0]["worst_layer"] in (3, 7)


def test_profile_and_simulate_see_the_same_recording_that_torch_wrote(tmp_path):
    counts_SLE = torch.arange(1, 25).view(2, 3, 4)
    torch.save({"rank": 0, "logical_count": counts_SLE}, tmp_path / "a.pt")
    seen = seen_by_profile(tmp_path / "a.pt")
    assert seen == {"a": list(enumerate(counts_SLE.sum(dim=0).tolist()))}
    assert seen_by_simulate(tmp_path / "a.pt", seen, ",k=2") == seen


def test_a_recording_is_simulated_with_the_k_that_it_does_not_say(tmp_path):
    torch.save({"logical_count": torch.full((4, 2, 8), 10)}, tmp_path / "a.pt")
    arguments = ["--ep", "8", "--hidden-size", "64"]
    assert run(["simulate", f"{tmp_path / 'a.pt'},k=2", *arguments])["k"] == 2
    with pytest.raises(ProblemError, match="does not give k"):
        run(["simulate", str(tmp_path / "a.pt"), *arguments])


@pytest.mark.parametrize(
    ("name", "suffix", "assignments", "steps", "slowdown"),
    [
        ("olmoe-1b-7b_gsm8k_layer0_vllm.jsonl.xz", "", 35_768, 1, 1.16),
        ("qwen1.5-moe-a2.7b-chat_gsm8k_layer0_vllm.jsonl.xz", "", 9_736, 104, None),
        ("olmoe_mixtral_expert_counts.json", ",model={}", None, None, None),
        ("olmoe_mixtral_expert_counts_crosslayer.json.xz", ",model={}", None, None, None),
    ],
)
def test_profile_and_simulate_see_the_same_public_trace(name, suffix, assignments, steps, slowdown):
    path = public(name)
    seen = seen_by_profile(path)
    assert seen_by_simulate(path, seen, suffix) == seen
    if steps is not None:
        trace = load_trace(str(path))
        assert (trace.counts_SLE.sum(), len(trace.counts_SLE)) == (assignments, steps)
    if slowdown is not None:
        row = run(["simulate", str(path), "--ep", "8", "--hidden-size", "2048"])["rows"][0]
        assert row["slowdown"] == pytest.approx(slowdown, abs=0.005)


@pytest.mark.parametrize("command", ["profile", "simulate"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.npz", "a.pt"])
def test_a_file_that_is_no_trace_is_refused_by_every_command(tmp_path, command, name):
    (tmp_path / name).write_text("{")
    suffix = ",k=2" if command == "simulate" and name == "a.pt" else ""
    with pytest.raises(ProblemError, match="not a routing trace"):
        run([command, f"{tmp_path / name}{suffix}"])
