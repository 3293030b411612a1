"""Whole commands on tiny models of transformers: train, resume with the same bits, evaluate, profile, export."""

from __future__ import annotations

import email
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from penstock.cli.main import run as run_command
from penstock.hooks import ProblemError, Registry
from penstock.traces.trace import RoutingTrace
from penstock.train.restore import restore

CONFIG = """\
name: tiny
data:
  corpus: {use: text, paths: ["CORPUS"], pattern: "*.py"}
  tokenizer: {vocab_size: 400}
  sequence_length: 32
  heldout_share: 0.3
model:
  use: hf
MODEL
train:
  tokens: 1024
  batch_size: 4
  micro_batch_size: 2
  evaluate_every: 4
  evaluate_tokens: 256
  checkpoint_every: 3
  trackers: [jsonl]
evaluate:
  tasks: []
  prompts: ["def "]
  sample_tokens: 4
"""
GPT2 = """\
  model_type: gpt2
  settings: {n_embd: 32, n_layer: 2, n_head: 4, n_positions: 160, resid_pdrop: 0.5}
"""
SHARED_GPT2 = f"{GPT2}  sharing: [attention, {{use: feed-forward, norms: true, biases: true}}]\n"
MIXTRAL = """\
  model_type: mixtral
  settings:
    {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
     num_local_experts: 4, num_experts_per_tok: 2}
  balance: [{use: switch-loss, weight: 0.1}, {use: z-loss}]
  sharing: [tied-embeddings]
"""
DEEPSEEK = """\
  model_type: deepseek_v3
  settings:
    {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 4,
     n_routed_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 16, n_group: 2, topk_group: 1,
     q_lora_rank: null, kv_lora_rank: 16, qk_nope_head_dim: 8, qk_rope_head_dim: 8, v_head_dim: 8,
     first_k_dense_replace: 1, n_shared_experts: 1}
  balance: [{use: loss-free, rate: 0.01}]
"""

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(folder)
    return lambda *arguments: run_command([str(argument) for argument in arguments])


def write(folder: Path, model: str) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.replace("MODEL\n", model).replace("CORPUS", str(Path(email.__file__).parent)))
    return path


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize(
    "model", [GPT2, SHARED_GPT2, MIXTRAL, DEEPSEEK], ids=["gpt2", "gpt2 with one layer", "mixtral", "deepseek_v3"]
)
def test_a_model_trains_resumes_with_the_same_bits_evaluates_and_exports(
    model: str, folder: Path, command: Command
) -> None:
    config = write(folder, model)
    run = Path(command("train", config)["run_dir"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["heldout/loss"] for line in lines if "heldout/loss" in line]
    assert losses[-1] < losses[0] < 6.1
    assert ("load/max_violation" in lines[0]) == ("gpt2" not in model)

    stopped = run.parent / "stopped"
    _as_if_stopped(run, stopped, step=6)
    command("train", config, "--resume", stopped)
    before, after = checkpoint(run, 8), checkpoint(stopped, 8)
    assert before.keys() == after.keys()
    assert ("transformer.h.1.attn.c_attn.weight" in before) == (model == GPT2)
    assert all(torch.equal(before[name], after[name]) for name in before)

    result = command("evaluate", run)
    assert result["performance"]["prompt_tokens"] == 32
    assert len(result["samples"]) == 1
    exported = Path(command("export", run, "--format", "{use: hf, dtype: float32}")["folder"])
    network: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    stored = {name: value for name, value in load_file(exported / "model.safetensors").items() if name in before}
    assert stored.keys() >= before.keys() - {"lm_head.weight"}
    assert all(torch.equal(stored[name], before[name]) for name in stored)
    assert network.config.vocab_size == network.get_input_embeddings().weight.shape[0] == 400
    assert network.config.eos_token_id is not None

    asked = ("--prompt", "def ", "--tokens", 4, "--temperature", 0, "--json")
    assert command("generate", run, *asked)["new_tokens"] == 4
    assert command("generate", exported, *asked)["new_tokens"] == 4


def _as_if_stopped(run: Path, copy: Path, *, step: int) -> None:
    """A copy of a run that has nothing after `step`."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    (copy / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps({**status, "state": "interrupted", "step": step}))


def test_a_mixture_is_profiled_and_simulated(folder: Path, command: Command) -> None:
    run = Path(command("train", write(folder, MIXTRAL), "train.tokens=256")["run_dir"])
    command("profile", run, "--max-tokens", 256)
    trace = RoutingTrace.load(run / "trace" / "heldout.npz")
    assert trace.header["hidden_size"] == 32
    assert trace.header["layers"] == [0, 1]
    assert np.array_equal(trace.counts_LE.sum(axis=1), [512, 512])
    assert command("simulate", run, "--gpus", "2,4")["rows"]
    own, even = command("profile", run, "--modify", "balanced", "--fraction", "1", "--max-tokens", 256)["rows"]
    assert own["max_violation"] > even["max_violation"] == 0
    assert own["perplexity"] != even["perplexity"]


def test_a_dry_run_counts_parameters_on_the_meta_device(folder: Path, command: Command) -> None:
    plan = command("train", write(folder, MIXTRAL), "--dry-run")
    by_role = plan["parameters"]["by_role"]
    assert by_role["expert"] == 2 * 4 * 3 * 32 * 48
    assert by_role["router"] == 2 * 4 * 32
    assert plan["parameters"]["total"] - plan["parameters"]["active"] == by_role["expert"] / 2


def test_training_starts_from_pretrained_weights(folder: Path, command: Command) -> None:
    trained = Path(command("train", write(folder, GPT2), "train.tokens=256")["run_dir"])
    origin = folder / "origin"
    command("export", trained, "--format", "{use: hf, dtype: float32}", "--out", origin)
    config = write(folder, f"  pretrained: {origin}\n")
    run = Path(command("train", config, "train.tokens=128", "train.optimizer={use: adamw, lr: 0}")["run_dir"])
    before, after = checkpoint(trained, 2), checkpoint(run, 1)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("model", [SHARED_GPT2, MIXTRAL], ids=["shared gpt2", "mixtral"])
def test_an_artifact_is_the_run_to_the_bit(model: str, folder: Path, command: Command) -> None:
    run = Path(command("train", write(folder, model), "train.tokens=256")["run_dir"])
    command("export", run, "--format", "penstock", "--out", folder / "tiny.penstock")
    registry = Registry.discover()
    models: list[Any] = [restore(path, registry).model for path in (run, folder / "tiny.penstock")]
    of_run, of_artifact = models
    own, loaded = of_run.export_state(), of_artifact.export_state()
    assert own.keys() == loaded.keys()
    assert all(torch.equal(own[name], loaded[name]) for name in own)
    assert sum(each.numel() for each in of_artifact.parameters()) == sum(each.numel() for each in of_run.parameters())


def test_an_encoder_is_refused_by_an_objective_of_next_tokens(folder: Path, command: Command) -> None:
    sizes = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4}"
    bert = f"  task: masked\n  model_type: bert\n  settings: {sizes}\n"
    said = "'next-token' trains models that predict the next token, but 'hf' predicts hidden tokens"
    with pytest.raises(ProblemError, match=said):
        command("train", write(folder, bert))


def test_an_encoder_learns_hidden_tokens_and_is_evaluated_on_them(folder: Path, command: Command) -> None:
    sizes = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, intermediate_size: 48}"
    bert = f"  task: masked\n  model_type: bert\n  settings: {sizes}\n"
    run = Path(command("train", write(folder, bert), "train.objective=masked-lm", "train.tokens=4096")["run_dir"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["heldout/loss"] for row in rows if "heldout/loss" in row]
    assert losses[-1] < losses[0]
    figures = command("evaluate", run)["tasks"]["masked-lm"]["metrics"]
    assert figures.keys() == {"masked-lm.nats_per_token"}


def test_sequences_beyond_the_default_positions_of_the_type_are_refused_before_training(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "text.py").write_text("def gate(): return 'water'\n" * 400)
    config = CONFIG.replace("CORPUS", str(tmp_path)).replace("MODEL\n", GPT2.replace(" n_positions: 160,", ""))
    (tmp_path / "run.yaml").write_text(config)
    longest = "data.sequence_length=1024"
    command("train", tmp_path / "run.yaml", longest, "--dry-run")
    with pytest.raises(ProblemError, match="sequences have 1025 tokens, but the model reads at most 1024 positions"):
        command("train", tmp_path / "run.yaml", "data.sequence_length=1025", "--dry-run")


def test_parameters_of_single_uses_need_weight_sites(folder: Path, command: Command) -> None:
    own = f"{GPT2}  sharing: [{{use: attention, per_use: {{gains: true}}}}, {{use: learned-sharing, budget: 1}}]\n"
    with pytest.raises(ProblemError) as caught:
        command("config", "validate", write(folder, own))
    said = str(caught.value)
    assert said.count("needs weight sites, which 'hf' does not have") == 2
    assert "q, k, v, o are shared by model.sharing.0 (attention) and by model.sharing.1 (learned-sharing)" in said
