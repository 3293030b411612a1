"""A run of `gpt`, from its config to its files: what it trained is what its artifact and its export hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from penstock.cli.main import run as run_command
from penstock.generate import load
from penstock.hooks import Registry
from penstock.hooks.contracts import Inputs
from penstock.hooks.problems import ProblemError
from penstock.train.restore import restore

REGISTRY = Registry.discover()
CONFIG = """\
name: gpt
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  tokenizer: {{vocab_size: 400}}
  sequence_length: 32
  heldout_share: 0.3
model:
  use: gpt
  hidden_size: 32
  num_hidden_layers: 3
  num_attention_heads: 2
  max_position_embeddings: 40
train:
  tokens: 1024
  batch_size: 4
  checkpoint_every: 4
evaluate:
  prompts: ["def "]
  sample_tokens: 8
"""
STORED = "model.quantizer={matrix: {use: ternary, activations: int8}, embedding: int8, head: int8}"
SHARED = "model.sharing=[{use: tied-gains, match: ['*q_proj*', '*mlp.up_proj*']}]"
ONE_IN_TWO = (
    "model.sharing=[{use: cross-layer, pattern: alternate, distinct: 2, norms: true, biases: true}, "
    "{use: factorised-embedding, rank: 8, positions: true}]"
)
RUNS: dict[str, list[str]] = {
    "full precision": [],
    "ternary with norms before projections": [STORED, "model.sub_norm=true"],
    "whole layers shared, embeddings factorised": [ONE_IN_TWO, STORED],
    "factors in full precision": [
        "model.sharing=[{use: factorised-embedding, rank: 8, positions: true}, {use: attention, biases: true}]"
    ],
    "ternary, shared with gains": ["model.quantizer={use: ternary, group: row}", SHARED],
}


def train(folder: Path, corpus: Path, *overrides: str) -> Path:
    (config := folder / "gpt.yaml").write_text(CONFIG.format(corpus=corpus))
    return Path(run_command(["train", str(config), *overrides, "--runs", str(folder), "--json"])["run_dir"])


@pytest.fixture(scope="module")
def runs(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gpt")
    return {
        name: train(folder, workplace / "corpus", f"name=gpt-{number}", *overrides)
        for number, (name, overrides) in enumerate(RUNS.items())
    }


def logits_of(model: Any) -> Tensor:
    token_BS = torch.arange(3 * 32).view(3, 32) % model.vocabulary_size
    with torch.no_grad():
        return model.logits(model(token_BS).hidden_BSD)


@pytest.mark.parametrize("name", RUNS)
def test_an_artifact_is_the_run_to_the_bit(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.penstock"
    run_command(["export", str(runs[name]), "--format", "penstock", "--out", str(path), "--json"])
    assert torch.equal(logits_of(restore(path, REGISTRY).model), logits_of(restore(runs[name], REGISTRY).model))
    texts = [load(each).generate("def ", tokens=6) for each in (runs[name], path)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["full precision", "factors in full precision", "ternary, shared with gains"])
def test_transformers_computes_the_logits_of_an_export(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    exporter = "{use: hf, dtype: float32}"
    run_command(["export", str(runs[name]), "--format", exporter, "--out", str(tmp_path / "hf"), "--json"])
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    model: Any = restore(runs[name], REGISTRY).model
    token_BS = torch.arange(3 * 32).view(3, 32) % model.vocabulary_size
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model), theirs(token_BS).logits, rtol=1e-5, atol=1e-5)


def test_rounded_activations_are_no_model_of_transformers(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["ternary with norms before projections"]
    with pytest.raises(ProblemError, match="no transformers class rounds activations"):
        run_command(["export", str(run), "--format", "hf", "--out", str(tmp_path / "hf")])


def test_training_starts_from_an_exported_folder(runs: dict[str, Path], workplace: Path, tmp_path: Path) -> None:
    exporter = "{use: hf, dtype: float32}"
    run_command(["export", str(runs["full precision"]), "--format", exporter, "--out", str(tmp_path / "hf"), "--json"])
    given = [f"model.pretrained={tmp_path / 'hf'}", f"data.tokenizer={{file: {tmp_path / 'hf'}}}"]
    overrides = [*given, "train.optimizer={use: adamw, lr: 0}"]
    sizes = ["hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]
    again = train(tmp_path, workplace / "corpus", *overrides, *(f"model.{size}=null" for size in sizes))
    first, second = (restore(run, REGISTRY).model for run in (runs["full precision"], again))
    assert torch.equal(logits_of(second), logits_of(first))


def test_a_gpt_can_be_the_frozen_base_of_experts(
    runs: dict[str, Path], workplace: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    folder = tmp_path / "hf"
    command("export", runs["full precision"], "--format", "{use: hf, dtype: float32}", "--out", folder, "--json")
    model = f"""{{use: frozen-base, base: {{use: gpt, pretrained: "{folder}"}}, layers: [1, 2], experts: 2,
      router: {{use: softmax-topk, k: 2}}, place: PLACE}}"""
    text = CONFIG.format(corpus=workplace / "corpus").split("model:")
    for place in ("beside", "in_place"):
        (config := tmp_path / f"{place}.yaml").write_text(
            f"{text[0]}model: {model.replace('PLACE', place)}\ntrain:{text[1].split('train:')[1]}"
        )
        given = [f"name={place}", f"data.tokenizer={{file: {folder}}}"]
        result = command("train", config, *given, "--runs", tmp_path / "runs", "--json")
        grown: Any = restore(Path(result["run_dir"]), REGISTRY).model
        base: Any = restore(runs["full precision"], REGISTRY).model
        assert torch.equal(logits_of(grown.base), logits_of(base))
        assert not torch.equal(logits_of(grown), logits_of(base))


def test_what_needs_experts_says_so(runs: dict[str, Path], command: Callable[..., Any]) -> None:
    with pytest.raises(ProblemError, match="the model has no experts"):
        command("profile", runs["full precision"])


def test_a_report_and_the_figures_of_a_dense_model(runs: dict[str, Path], command: Callable[..., Any]) -> None:
    run = runs["ternary with norms before projections"]
    figures = command("evaluate", run, "--json")
    assert 0 < figures["heldout_bits_per_byte"] < 16
    assert Path(command("report", run, "--json")["report"]).is_file()


def test_padded_prompts_continue_as_alone(runs: dict[str, Path]) -> None:
    model: Any = restore(runs["ternary, shared with gains"], REGISTRY).model
    token_BS = torch.tensor([[0, 0, 7, 8, 9], [3, 4, 5, 6, 7]])
    real_BS = torch.tensor([[False, False, True, True, True], [True] * 5])
    together = model.generate(Inputs(token_BS, real_BS), tokens=5)
    assert torch.equal(together[0, 2:], model.generate(token_BS[:1, 2:], tokens=5)[0])
