"""Compiled layers train the same model, to the same bits when resumed, and are refused where they cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from crash import differences, outcome

from penstock.hooks import ExitCode, ProblemError

Command = Callable[..., Any]
COMPILED = ("train.compile_layers=true", "model.router={use: sigmoid-topk, k: 2}", "train.micro_batch_size=2")
GPT = "model={use: gpt, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 32}"
FROZEN = (
    "model={use: frozen-base, layers: [1], router: {use: softmax-topk, k: 2}, base: {use: hf, model_type: gpt_neo, "
    "settings: {hidden_size: 32, num_layers: 2, num_heads: 2, attention_types: [[[global], 2]]}}}"
)


@pytest.fixture
def train(tiny: Path, tmp_path: Path, command: Command) -> Callable[..., Path]:
    def trained(*more: str) -> Path:
        arguments = ("train", tiny, "train.tokens=256", "train.keep_checkpoints=9", "train.micro_batch_size=2", *more)
        return Path(command(*arguments, "--runs", tmp_path, "--json")["run_dir"])

    return trained


def assert_learns_alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["weights"].keys() == two["weights"].keys()
    for ours, theirs in zip(one["metrics"], two["metrics"], strict=True):
        assert [ours[name] for name in ours if "loss" in name] == pytest.approx(
            [theirs[name] for name in ours if "loss" in name], rel=1e-3
        )


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_learns_what_an_eager_one_does_and_resumes_to_its_own_bits(train: Callable[..., Path]) -> None:
    run = train(GPT, "train.compile_layers=true")
    assert_learns_alike(expected := outcome(run), outcome(train(GPT)))
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "interrupted", "step": 2}))
    train(GPT, "train.compile_layers=true", "--resume", str(run))
    assert differences(outcome(run), expected) == []


def test_layers_with_experts_are_traced_and_checkpointed(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs run without a C++ compiler, which takes its time for them."""
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
    expected = outcome(train(*COMPILED))
    assert_learns_alike(expected, outcome(train(*COMPILED, "train.compile_layers=false")))
    assert differences(outcome(train(*COMPILED, "train.activation_checkpointing=full")), expected) == []


def test_a_machine_without_a_compiler_is_refused_before_training(
    tiny: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nlong text")

    monkeypatch.setattr("torch.compile", missing)
    with pytest.raises(ProblemError, match=r"train\.compile_layers: .*'cpu' \(no C\+\+ compiler found\)") as raised:
        command("train", tiny, *COMPILED, "--runs", tmp_path)
    assert raised.value.exit_code == ExitCode.FAILED
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_base_is_refused_by_name(tiny: Path, command: Command) -> None:
    with pytest.raises(ProblemError, match="FrozenBase replaces parts of its layers in every pass"):
        command("train", tiny, FROZEN, "train.compile_layers=true", "--dry-run")


def test_selective_checkpointing_of_compiled_layers_is_refused(tiny: Path, command: Command) -> None:
    with pytest.raises(ProblemError, match="selective needs to see the operators of a layer"):
        command("train", tiny, *COMPILED, "train.activation_checkpointing=selective", "--dry-run")
