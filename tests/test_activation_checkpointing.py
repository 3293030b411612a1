"""Activation checkpointing changes no bit of a run, and counts nothing twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash import CrashServer, differences, outcome

Train = Callable[..., Path]
MODES = ("full", "selective")
COUNTS_FIRST = "model.balance=[{use: loss-free, rate: 0.01}, {use: global-loss, weight: 0.1}]"
NEO = "{hidden_size: 32, num_layers: 3, num_heads: 2, attention_types: [[[global], 3]], max_position_embeddings: 64}"
MIXTRAL = (
    "{hidden_size: 32, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, "
    "num_local_experts: 4, num_experts_per_tok: 2, attention_dropout: 0.1, max_position_embeddings: 64}"
)
GPT = "model={use: gpt, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 32}"
BERT = (
    "model={use: bert, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32, "
    "max_position_embeddings: 32, dropout: 0.2, head: {task: masked-lm}}"
)
FROZEN = (
    "model={use: frozen-base, layers: [1, 2], experts: 4, router: ROUTER, balance: [{use: global-loss, weight: 0.1}], "
    f"base: {{use: hf, model_type: gpt_neo, settings: {NEO}}}}}"
)
RUNS = {
    "noise": ["model.router={use: sigmoid-topk, k: 2, noise: 0.5}", COUNTS_FIRST],
    "capacity": ["model.router={use: softmax-topk, k: 2, capacity: 1.0}", COUNTS_FIRST],
    "online": ["model.router={use: cluster, k: 2}", "model.balance=[{use: loss-free, rate: 0.01}]"],
    "random": ["model.router={use: random, k: 2}", "model.balance=[]"],
    "bf16": ["train.dtype=bf16"],
    "ternary": ["model.quantizer={use: ternary-learned, activations: int8}", "model.sharing=[]"],
    "shared": ["model.sharing=[{use: tied-embeddings}, {use: cross-layer, distinct: 1, parts: [q, k, v, o]}]"],
    "gpt": [GPT],
    "bert": [BERT, "train.objective={use: masked-lm}"],
    "transformers": [f"model={{use: hf, model_type: mixtral, settings: {MIXTRAL}}}"],
    "frozen": [FROZEN.replace("ROUTER", "{use: cluster, k: 2}")],
}


@pytest.fixture
def train(tiny: Path, tmp_path: Path, command: Callable[..., Any]) -> Train:
    def trained(*arguments: str) -> Path:
        shorter = ("train.tokens=256", "train.micro_batch_size=2")
        return Path(command("train", tiny, *shorter, *arguments, "--runs", tmp_path, "--json")["run_dir"])

    return trained


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_every_bit_that_it_has_without(name: str, train: Train) -> None:
    """Weights, optimizer state, losses, norms, statistics of routers and the trace of the load."""
    expected = outcome(train(*RUNS[name]))
    for mode in MODES:
        found = train(*RUNS[name], f"train.activation_checkpointing={mode}")
        assert differences(outcome(found), expected) == [], mode


def test_the_load_is_that_of_the_tokens_once(train: Train) -> None:
    run = train("train.activation_checkpointing=full", COUNTS_FIRST)
    counts = outcome(run)["trace"]["counts_SLE"]
    assert set(counts.sum(dim=-1).flatten().tolist()) == {64 * 2}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_resumes_with_another_setting_to_the_same_bits(mode: str, train: Train) -> None:
    expected = outcome(whole := train("train.keep_checkpoints=9"))
    shutil.rmtree(whole / "checkpoints" / "step-00000004")
    status = json.loads((whole / "status.json").read_text())
    (whole / "checkpoints" / "latest").write_text("step-00000002\n")
    (whole / "status.json").write_text(json.dumps({**status, "state": "interrupted", "step": 2}))
    train("train.keep_checkpoints=9", f"train.activation_checkpointing={mode}", "--resume", str(whole))
    assert differences(outcome(whole), expected) == []


@pytest.mark.parametrize(("engine", "modes"), [("ddp", ["selective"]), ("fsdp2", ["full", "selective"])])
def test_ranks_have_every_bit_that_they_have_without(
    engine: str, modes: list[str], server: CrashServer, tiny: Path, tmp_path: Path
) -> None:
    """Layers whose parameters are cut are gathered for the second computation as for the first."""
    same = ("train.tokens=256", "train.micro_batch_size=1", "model.router={use: cluster, k: 2}", COUNTS_FIRST)
    found = []
    for mode in ("none", *modes):
        setting = f"train.activation_checkpointing={mode}"
        first, second = server.run_ranks("train", tiny, *same, setting, f"train.engine={engine}", cwd=tmp_path)
        assert (first.status, second.status) == (0, 0), first.said + second.said
        found.append(outcome(tmp_path / first.said.rpartition("run: ")[2].strip()))
    for each in found[1:]:
        assert differences(each, found[0]) == []
