"""A run that trains experts in a model that stays as it is: what is stored, what is refused, what is learnt."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock.hooks import Registry
from penstock.hooks.problems import ProblemError
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.frozen_base.prefix_cache import Prefix
from penstock.train.restore import restore

DENSE = "{hidden_size: 32, num_layers: 3, num_heads: 2, attention_types: [[[global], 3]], max_position_embeddings: 64}"
CONFIG = """\
name: frozen
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  tokenizer: {{vocab_size: 400}}
  sequence_length: 32
  heldout_share: 0.3
model:
  use: frozen-base
  base: {base}
  layers: [0, 2]
  experts: 4
  router: {{use: softmax-topk, k: 2, temperature: 0.5}}
  balance: [{{use: switch-loss, weight: 0.1}}]
train:
  tokens: 1024
  batch_size: 4
  checkpoint_every: 4
  trackers: [jsonl]
  optimizer: {{use: adamw, lr: 0.003}}
evaluate:
  tasks: []
"""
RANDOM = f"{{use: hf, model_type: gpt_neo, settings: {DENSE}}}"


@pytest.fixture
def config(workplace: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(base: str = RANDOM) -> Path:
        path = tmp_path / "frozen.yaml"
        path.write_text(CONFIG.format(corpus=workplace / "corpus", base=base))
        return path

    return write


def checkpoint(run: Path | str) -> Path:
    folder = Path(run, "checkpoints")
    return folder / (folder / "latest").read_text().strip()


def test_a_checkpoint_holds_what_trains_and_the_hash_of_the_base(
    config: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    result = command("train", config(), "--runs", tmp_path / "runs", "--json")
    stored = load_file(checkpoint(result["run_dir"]) / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"0", "2"}
    parameters = result["parameters"]
    buffers = sum(tensor.numel() for name, tensor in stored.items() if name.endswith("_bias"))
    assert sum(tensor.numel() for tensor in stored.values()) - buffers == parameters["trained"] < parameters["total"]
    state = torch.load(checkpoint(result["run_dir"]) / "engine.pt", weights_only=True)["optimizer"]
    assert len(state["state"]) == len(stored) - 2
    restored = restore(Path(result["run_dir"]), Registry.discover())
    model: Any = restored.model
    written = json.loads((checkpoint(result["run_dir"]) / "base.json").read_text())
    assert model.base_hash() == written["sha256"]
    figures = {"trained_share", "loss_before", "loss_after", "entropy", "gini", "specialisation", "balance/switch-loss"}
    assert figures <= result["learnt"].keys()
    generated = command("generate", result["run_dir"], "--prompt", "def ", "--tokens", 80, "--temperature", 0, "--json")
    assert (generated["stopped_by"], generated["prompt_tokens"] + generated["new_tokens"]) == ("positions", 64)
    with pytest.raises(ProblemError, match="the model learns beside a frozen base, which its config only names"):
        command("export", result["run_dir"], "--format", "penstock")
    assert not Path(result["run_dir"], "model.penstock").exists()


def test_a_run_that_is_resumed_has_the_bits_of_one_that_was_not(
    config: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    whole = checkpoint(command("train", config(), "--runs", runs, "--json")["run_dir"])
    broken = whole.parents[1].with_name("broken")
    shutil.copytree(whole.parents[1], broken)
    shutil.rmtree(broken / "checkpoints" / whole.name)
    (broken / "checkpoints" / "latest").write_text("step-00000004\n")
    command("train", config(), "--resume", broken, "--runs", runs, "--json")
    ours, theirs = (load_file(path / "model.safetensors") for path in (checkpoint(broken), whole))
    assert checkpoint(broken).name == whole.name
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_another_base_than_that_of_the_checkpoint_is_refused(
    config: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    from penstock_hf_models.build import hf_model

    settings = {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "attention_types": [[["global"], 3]]}
    model: Any = hf_model(model_type="gpt_neo", settings=settings, vocab_size=400)
    model.network.save_pretrained(tmp_path / "base")
    path = config(f"{{use: hf, pretrained: {tmp_path / 'base'}}}")
    run = command("train", path, "--runs", tmp_path / "runs", "--json")["run_dir"]
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.ln_f.weight"] = tensors["transformer.ln_f.weight"] * 1.5
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ProblemError, match="the frozen base differs from the one trained on"):
        command("train", path, "--resume", run, "--runs", tmp_path / "runs")
    with pytest.raises(ProblemError, match="the frozen base differs from the one trained on"):
        restore(Path(run), Registry.discover())


@pytest.mark.parametrize(
    ("base", "overrides", "said"),
    [
        (RANDOM, ["model.layers=[1,3]"], "unknown layer 3: the base has layers 0 to 2"),
        ("{use: hf, model_type: opt}", [], "no list of layers that all have an MLP"),
        ("{use: hf, pretrained: nowhere}", [], "model.base.pretrained: model not found"),
        (RANDOM, ["model.place=in_place", "model.router={use: softmax-topk, k: 2, scale: 2.5}"], "instead of 1"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(
    config: Callable[..., Path], command: Callable[..., Any], tmp_path: Path, base: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(ProblemError, match=said):
        command("train", config(base), *overrides, "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


SIZES = "hidden_size: 32, num_hidden_layers: 3, first_k_dense_replace: 3, num_attention_heads: 2, head_dim: 16"


@pytest.mark.parametrize("place", ["beside", "in_place"])
def test_what_is_exported_is_the_whole_model_and_transformers_loads_it(
    config: Callable[..., Path], command: Callable[..., Any], tmp_path: Path, place: str
) -> None:
    from transformers import AutoModelForCausalLM

    path = config(f"{{use: glm-moe, {SIZES}, num_key_value_heads: 1, intermediate_size: 32}}")
    size = 16 if place == "beside" else "null"
    changes = ["model.layers=[1,2]", f"model.place={place}", f"model.expert_size={size}"]
    router = "model.router={use: sigmoid-topk, k: 2, temperature: 0.5}"
    run = Path(command("train", path, *changes, router, "--runs", tmp_path / "runs", "--json")["run_dir"])
    folder = command("export", run, "--format", "{use: hf, dtype: float32}", "--json")["folder"]
    token_BS = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    model: Any = restore(run, Registry.discover()).model
    with torch.no_grad():
        ours = model.logits(model(token_BS).hidden_BSD)
        theirs = AutoModelForCausalLM.from_pretrained(folder)(token_BS).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_an_export_that_no_class_has_is_refused(
    config: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    run = Path(command("train", config(), "--runs", tmp_path / "runs", "--json")["run_dir"])
    with pytest.raises(ProblemError, match="no exportable architecture has a base that is not a glm-moe"):
        command("export", run)
    assert not (run / "export-hf").exists()


def test_a_run_that_fails_in_a_step_lets_go_of_what_the_step_kept(
    config: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    counted_first = ["model.layers=[2]", "model.balance=[{use: global-loss}]", "train.micro_batch_size=2"]
    with pytest.raises(ProblemError, match="became nan at step") as failure:
        command("train", config(), *counted_first, "train.optimizer.lr=1e30", "--runs", tmp_path / "runs")
    assert any(type(each) is FrozenBase for each in gc.get_objects()), failure  # which holds the run
    assert not any(type(each) is Prefix for each in gc.get_objects())


@pytest.mark.parametrize("name", ["frozen-base", "upcycle"])
def test_a_trained_story_teller_learns_to_tell_better(command: Callable[..., Any], tmp_path: Path, name: str) -> None:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no stories260K here")
    data = Path(os.environ["PENSTOCK_DATA"])
    shipped = Path(__file__).parents[1] / "configs" / f"{name}.yaml"
    result = command(
        "train",
        shipped,
        f"data.corpus={{use: text, paths: ['{data}/tinystories'], separator: '<|endoftext|>'}}",
        f"data.tokenizer.file={data}/stories260k/tok512.bin",
        f"model.base={{use: glm-moe, pretrained: {data}/stories260k/stories260K.bin}}",
        "model.layers=[2,4]",
        "train.tokens=60_000",
        "--runs",
        tmp_path / "runs",
        "--json",
    )
    learnt = result["learnt"]
    assert learnt["loss_after"] < learnt["loss_before"] - 0.003
    assert learnt["gini"] < 0.2
    assert 0.05 < learnt["specialisation"] < 1
