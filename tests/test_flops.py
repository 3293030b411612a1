"""FLOPs and active parameters are counted in one way: by `penstock plan`, of the composed model, and by sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.cli.main import run
from penstock.hooks.registry import Registry
from penstock.run.config import RunConfig, load_run_config
from penstock.sweep.shape import shape_of
from penstock.train.compose import compose_model, parameter_summary
from penstock.train.flops import flops_of_forward

DENSE = {"parameters": "1M", "embedding_share": 0.25, "width_multiple": 16}
PLANS: list[tuple[str, dict[str, Any]]] = [
    ("glm-moe", {"vary": "vocabulary", "layers": 5}),
    ("glm-moe", {"vary": "vocabulary", "layers": 5, "embedding_share": 0.45}),
    ("glm-moe", {"vary": "vocabulary", "layers": 5, "tied": False}),
    ("glm-moe", {"vary": "factor", "layers": 3, "vocabulary": 4000, "share_tolerance": 0.02}),
    ("glm-moe", {"vary": "vocabulary", "layers": 4, "experts": 4, "glu": 1.0, "parameters": "4M"}),
    ("gpt", {"parameters": "10M", "embedding_share": 0.35, "glu": 4.0, "vary": "vocabulary", "layers": 8}),
]


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
}


def config_of(folder: Path, model: dict[str, Any], objective: str = "next-token", **data: Any) -> RunConfig:
    corpus = {"use": "text", "paths": [str(folder)]}
    path = folder / "run.yaml"
    path.write_text(json.dumps({"name": "counted", "data": {"corpus": corpus, **data}, "model": model}))
    return load_run_config(path, ["train.tokens=4096", f"train.objective={objective}"], Registry.discover())[0]


@pytest.mark.parametrize(("use", "plan"), PLANS)
def test_a_sweep_counts_what_the_planner_counts(tmp_path, use, plan):
    settings = {**DENSE, **plan}
    untied = ["--untied"] * (settings.get("tied") is False)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name != "tied"]
    planned = run(["plan", "--use", use, "--sequence-length=96", "--json", *options, *untied])
    router = {"router": {"use": "sigmoid-topk", "k": 2}} if "experts" in plan else {}
    shape = shape_of(config_of(tmp_path, {"use": use, "plan": settings, **router}, sequence_length=96))
    assert shape.flops_per_token == planned["training_flops_per_token"]
    assert shape.active_parameters == planned["active_parameters"]
    assert shape.parameters == planned["reached"]["parameters"]


def test_a_larger_share_of_a_tied_embedding_is_not_dearer_because_it_is_looked_up(tmp_path):
    """A row of the table is read, and the head multiplies each row once, so a quarter and 45 % are as in `plan`."""
    quarter, nearly_half = (
        shape_of(config_of(tmp_path, {"use": "glm-moe", "plan": {**DENSE, **plan}})).flops_per_token
        for _, plan in PLANS[:2]
    )
    assert nearly_half < quarter


@pytest.mark.parametrize("sharing", [[], ["tied-embeddings"], [{"use": "attention"}], [{"use": "feed-forward"}]])
def test_a_shared_weight_counts_for_each_use_and_is_one_parameter(tmp_path, sharing):
    plain, shared = (
        config_of(tmp_path, {"use": "glm-moe", **SIZES, "sharing": each}, tokenizer={"vocab_size": 300})
        for each in ([], sharing)
    )
    one, other = shape_of(plain), shape_of(shared)
    assert other.flops_per_token == one.flops_per_token
    assert (other.active_parameters == one.active_parameters) is (not sharing)


def test_what_transforms_of_a_weight_compute_is_not_charged_to_each_token(tmp_path):
    per_use = [{"use": "attention", "per_use": {"low_rank": 2}}]
    plain, adapted = (
        shape_of(config_of(tmp_path, {"use": "glm-moe", **SIZES, "sharing": each}, tokenizer={"vocab_size": 300}))
        for each in ([{"use": "attention"}], per_use)
    )
    assert adapted.parameters > plain.parameters
    assert adapted.flops_per_token == plain.flops_per_token


@pytest.mark.parametrize(("use", "objective"), [("gpt", "next-token"), ("bert", "masked-lm")])
def test_flops_are_those_that_torch_counts(tmp_path, use, objective):
    from torch.utils.flop_counter import FlopCounterMode

    length = 16
    model = {"use": use, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = config_of(tmp_path, model, objective, sequence_length=length, tokenizer={"vocab_size": 300})
    composition = compose_model(config, 300, "meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        built: Any = composition.model
        hidden_BSD = built(torch.zeros(1, length, dtype=torch.long, device="meta")).hidden_BSD
        built.logits(hidden_BSD) if use == "bert" else built.lm_head(hidden_BSD)
    # torch counts every pair of positions of a causal model too
    pairs = 2 * 2 * 2 * 32 * (length - (length + 1) / 2) if use == "gpt" else 0
    assert counter.get_total_flops() == length * (flops_of_forward(config, composition) + pairs)
    assert parameter_summary(composition).active == parameter_summary(composition).total
