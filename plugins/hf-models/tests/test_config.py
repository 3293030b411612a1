from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from families import SIZES, build, tokens
from penstock_hf_models.build import hf_model
from penstock_hf_models.config import HfConfig

from penstock.hooks import ProblemError, Registry
from penstock.hooks.architecture import BUILT
from penstock.hooks.config import OfKind, Schema, parse_config, validate
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.registry import Choice

REGISTRY = Registry.discover()


class Run(Schema):
    model: Annotated[Choice, OfKind("architecture")]


def configured(text: str) -> HfConfig:
    return validate(Run, parse_config(f"model: {{use: hf, {text}}}", "run.yaml"), REGISTRY).model.settings


def test_the_component_is_known_and_its_fields_are_the_arguments_of_its_target() -> None:
    entry = REGISTRY.get("architecture", "hf")
    assert entry.origin.distribution == FIRST_PARTY["architecture", "hf"] == "penstock-hf-models"
    arguments = set(inspect.signature(entry.component.load_target()).parameters)
    fields = set(entry.component.load_config().model_fields) - BUILT
    assert arguments == fields | {"make_router", "quantizer"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: causal", "write one of model_type, config_file and pretrained, not none of them"),
        ("model_type: gpt2, pretrained: gpt2", "not model_type and pretrained"),
        ("pretrained: gpt2, settings: {n_embd: 8}", "a pretrained model has its own config"),
        ("model_type: gpt2, revision: main", "revision needs pretrained"),
        ("model_type: gpt2, settings: {vocab_size: 8}", "write vocab_size next to `settings`"),
        ("model_type: gpt2, router: {use: softmax-topk}", "has its own routers"),
        ("model_type: gpt2, quantizer: {use: ternary}", "has its own routers and plain weights"),
        ("model_type: gpt2, overrides: [{match: 'layers.*', router: softmax-topk}]", "has its own routers"),
        ("model_typ: gpt2", "did you mean 'model_type'"),
    ],
)
def test_settings_that_cannot_work_are_problems_of_the_config(text: str, words: str) -> None:
    with pytest.raises(ProblemError) as raised:
        configured(text)
    assert words in str(raised.value)
    assert "run.yaml:1:" in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_type": "gpt22"}, "transformers has no model type 'gpt22', did you mean 'gpt2'"),
        (
            {"model_type": "gpt2", "settings": {"n_embed": 8}},
            "model.settings.n_embed: gpt2 has no field 'n_embed'.*n_embd",
        ),
        ({"model_type": "gpt2", "settings": {"n_embd": "wide"}}, "'n_embd' expected int"),
        ({"model_type": "gpt2", "task": "masked"}, "no masked model of type gpt2, write `task: causal`"),
        ({"model_type": "t5"}, "no causal model of type t5, write `task: seq2seq`"),
        ({"model_type": "vit"}, "no causal model of type vit, it is not a language model"),
        ({"pretrained": "no/such/folder/anywhere"}, "model not found"),
        ({"config_file": Path("nowhere.json")}, "nowhere.json: file not found"),
        ({"model_type": "gpt2", "quantizer": object()}, "model.quantizer"),
        ({"model_type": "gpt2", "settings": {"n_head": 7}}, "model.settings: gpt2 cannot be built .*divisible"),
        ({"model_type": "llama", "settings": {"hidden_act": "x"}}, "llama cannot be built .KeyError: 'x'"),
        ({"model_type": "llama", "settings": {"num_attention_heads": 0}}, "llama refuses its config .ZeroDivision"),
        ({"model_type": "mixtral", "settings": {"num_local_experts": -1}}, "mixtral cannot be built .RuntimeError"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_transformers_cannot_build_is_a_problem(arguments: dict, words: str, device: str) -> None:
    with pytest.raises(ProblemError, match=words), torch.device(device):
        hf_model(vocab_size=64, **arguments)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("origin", ["config_file", "pretrained"])
def test_a_file_that_its_class_refuses_is_named(tmp_path: Path, origin: str, device: str) -> None:
    model_type = {"model_type": "gpt2", "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({**model_type, "n_embd": 32, "n_layer": 1, "n_head": 5}))
    given: Any = {origin: str(tmp_path) if origin == "pretrained" else tmp_path}
    with pytest.raises(ProblemError, match=f"gpt2 cannot be built|{tmp_path}: "), torch.device(device):
        hf_model(**given)


def test_a_file_gives_config_and_vocabulary_and_settings_stand_above_it(tmp_path: Path) -> None:
    build("llama").network.config.save_pretrained(tmp_path)
    assert configured(f"config_file: {tmp_path}").vocab_size == 96
    assert configured(f"config_file: {tmp_path / 'config.json'}, vocab_size: 99").vocab_size == 99
    model = hf_model(config_file=tmp_path, settings={"num_hidden_layers": 3}, vocab_size=96)
    config = model.network.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("llama", SIZES["hidden_size"], 3)


def test_pretrained_weights_are_fp32_and_their_vocabulary_may_be_larger(tmp_path: Path) -> None:
    original = build("mixtral")
    original.network.bfloat16().save_pretrained(tmp_path)
    assert configured(f"pretrained: {tmp_path}").vocab_size == 96
    with pytest.raises(ProblemError, match="vocab_size is 99, but the pretrained model has 96"):
        configured(f"pretrained: {tmp_path}, vocab_size: 99")
    model = hf_model(pretrained=str(tmp_path), vocab_size=90, eos_token_id=7)
    assert model.vocabulary_size == 96
    assert model.training
    assert model.export_config()["eos_token_id"] == 7
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    pairs = zip(model.parameters(), original.parameters(), strict=True)
    assert all(torch.equal(mine, theirs.float()) for mine, theirs in pairs)
    with pytest.raises(ProblemError, match="the tokenizer has 97 tokens, but the pretrained model has 96 embeddings"):
        hf_model(pretrained=str(tmp_path), vocab_size=97)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    build("llama").network.model.save_pretrained(tmp_path)  # without its head
    with pytest.raises(ProblemError, match=r"missing tensors: lm_head\.weight"):
        hf_model(pretrained=str(tmp_path))


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two = build("olmoe"), build("olmoe")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert torch.equal(one(tokens(1, 4)).hidden_BSD, two(tokens(1, 4)).hidden_BSD)


def test_special_tokens_that_the_vocabulary_does_not_hold_are_left_out() -> None:
    config = hf_model(
        model_type="gpt2", settings={"n_embd": 8, "n_layer": 1, "n_head": 2}, vocab_size=64
    ).network.config
    assert (config.bos_token_id, config.eos_token_id) == (None, None)


def test_description_and_settings_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, penstock_hf_models.plugin, penstock_hf_models.config\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
