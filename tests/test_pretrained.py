"""A run starts from a checkpoint of transformers: sizes, router and weights are the checkpoint's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM

from penstock.hooks import Registry
from penstock.hooks.config import parse_config, validate
from penstock.moe_core.glm.config import GlmMoeConfig

CONFIG = """\
name: continued
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  tokenizer: {{vocab_size: 400}}
  sequence_length: 32
  heldout_share: 0.3
model:
  use: glm-moe
  pretrained: {pretrained}
train:
  tokens: 256
  batch_size: 4
evaluate:
  tasks: []
"""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in groups of experts, as transformers saves it."""
    torch.manual_seed(0)
    config = Glm4MoeConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        moe_intermediate_size=16,
        n_routed_experts=8,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
        routed_scaling_factor=2.5,
    )
    model = Glm4MoeForCausalLM(config)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.2)
    folder = tmp_path_factory.mktemp("pretrained")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(pretrained: Path) -> GlmMoeConfig:
    return validate(GlmMoeConfig, parse_config(f"pretrained: {pretrained}\n"), Registry.discover())


def build(settings: GlmMoeConfig) -> Any:
    from penstock.moe_core.glm.model import glm_moe

    router = settings.router
    assert router is not None
    return glm_moe(pretrained=settings.pretrained, make_router=lambda layer, **sizes: router.build(**sizes))


def test_with_the_router_of_the_file_logits_are_those_of_transformers(pretrained: Path, settings: GlmMoeConfig) -> None:
    model = build(settings)
    token_BS = torch.randint(0, 400, (2, 12), generator=torch.Generator().manual_seed(1))
    theirs = AutoModelForCausalLM.from_pretrained(pretrained)(token_BS).logits
    torch.testing.assert_close(model.logits(model(token_BS).hidden_BSD), theirs, rtol=1e-5, atol=1e-5)
    assert model.export_config()["topk_group"] == 2


def test_the_correction_bias_stays_fp32_when_the_model_is_cast(settings: GlmMoeConfig) -> None:
    model = build(settings)
    before = model.routers[1].e_score_correction_bias.clone()
    model.bfloat16()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    after = model.routers[1].e_score_correction_bias
    assert after.dtype == torch.float32
    assert torch.equal(after, before)
    assert model.export_state()["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32


def test_a_run_that_learns_nothing_ends_with_the_pretrained_bits(
    pretrained: Path, workplace: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "continued.yaml"
    config.write_text(CONFIG.format(corpus=workplace / "corpus", pretrained=pretrained))
    plan = command("train", config, "--dry-run", "--json")
    own = load_file(pretrained / "model.safetensors")
    assert plan["parameters"]["total"] == sum(tensor.numel() for name, tensor in own.items() if "_bias" not in name)
    still = ["train.optimizer={use: muon, lr: 0.0}", "train.trackers=[]"]
    run = command("train", config, *still, "--runs", tmp_path / "runs", "--json")["run_dir"]
    (checkpoint,) = Path(run, "checkpoints").glob("step-*")
    trained = load_file(checkpoint / "model.safetensors")
    assert trained.keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in trained.items())
    written = json.loads((checkpoint / "config.json").read_text())
    assert (written["num_experts_per_tok"], written["n_group"], written["routed_scaling_factor"]) == (3, 4, 2.5)
