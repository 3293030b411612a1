"""Checkpoints of Hugging Face's glm4_moe: read, written and read again, bit for bit. transformers is the other side."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM

from penstock.hooks.problems import ProblemError
from penstock.moe_core.glm.config import pretrained_settings
from penstock.moe_core.glm.model import GlmMoe, glm_moe
from penstock.moe_core.hub.tensors import INDEX

BIAS = "e_score_correction_bias"


def save(model: GlmMoe, folder, dtype=torch.float32):
    """Writes a folder as an exporter does: every tensor as `dtype`, the correction bias as fp32."""
    folder.mkdir()
    state = {
        name: tensor.to(torch.float32 if name.endswith(BIAS) else dtype).contiguous()
        for name, tensor in model.export_state().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**model.export_config(), "dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same_files(one, other):
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.fixture
def theirs(tmp_path):
    """A folder that transformers saved, with a correction bias of both signs."""

    def make(name="theirs", dtype=torch.float32, **changes):
        torch.manual_seed(1)
        sizes = {
            "vocab_size": 96,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "n_routed_experts": 6,
            "num_experts_per_tok": 2,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 0,
        }
        model: Any = Glm4MoeForCausalLM(Glm4MoeConfig(**{**sizes, **changes}))
        for module in model.modules():
            if hasattr(module, BIAS):
                getattr(module, BIAS).normal_(0, 0.2)
        folder = tmp_path / name
        model.to(dtype).save_pretrained(folder)
        if dtype is not torch.float32:  # as published files: all but the bias
            state = load_file(folder / "model.safetensors")
            state = {name: tensor.float() if name.endswith(BIAS) else tensor for name, tensor in state.items()}
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture
def read(make_model):
    """Builds our model from a folder, with the router that its `config.json` describes."""
    plain_router = type(make_model().routers[1])

    def build(folder, **settings):
        router = pretrained_settings(folder).get("router", {})
        kept = {name: router[name] for name in ("k", "scale") if name in router}
        return glm_moe(pretrained=folder, make_router=lambda layer, **sizes: plain_router(**sizes, **kept), **settings)

    return build


def logits(model: GlmMoe, token_BS):
    return model.logits(model(token_BS).hidden_BSD)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


TOKENS = torch.arange(18).view(2, 9) * 5 % 96

FAMILIES = [
    {},
    {"use_qk_norm": True, "attention_bias": True},
    {"tie_word_embeddings": True},
    {"first_k_dense_replace": 3},
    {"first_k_dense_replace": 0, "n_shared_experts": 2},
]


@pytest.mark.parametrize("changes", FAMILIES, ids=str)
def test_theirs_ours_theirs_is_bit_equal(theirs, read, tmp_path, changes):
    folder = theirs(**changes)
    model = read(folder)
    original = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(model, TOKENS), original(TOKENS).logits, rtol=1e-5, atol=1e-5)
    ours = save(model, tmp_path / "ours")
    assert_same_files(folder, ours)
    returned = AutoModelForCausalLM.from_pretrained(ours)
    assert torch.equal(returned(TOKENS).logits, original(TOKENS).logits)
    returned.save_pretrained(tmp_path / "again")
    assert_same_files(folder, tmp_path / "again")


def test_the_stacked_layout_is_read_and_written_as_one_entry_an_expert(theirs, read, tmp_path):
    folder = theirs()
    stacked = tmp_path / "stacked"
    shutil.copytree(folder, stacked)
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert "model.layers.1.mlp.experts.gate_up_proj" in state
    save_file(state, stacked / "model.safetensors", metadata={"format": "pt"})
    assert_same_files(folder, save(read(stacked), tmp_path / "ours"))


def test_bf16_files_come_back_as_they_were_with_the_bias_in_fp32(theirs, read, tmp_path):
    folder = theirs(dtype=torch.bfloat16, use_qk_norm=True)
    model = read(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    ours = save(model, tmp_path / "ours", torch.bfloat16)
    assert_same_files(folder, ours)
    stored = load_file(ours / "model.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if name.endswith(BIAS)} == {torch.float32}
    before, after = (AutoModelForCausalLM.from_pretrained(path, dtype="auto") for path in (folder, ours))
    assert after.dtype == torch.bfloat16
    assert torch.equal(before(TOKENS).logits, after(TOKENS).logits)


def test_sharded_files_are_read_through_their_index(theirs, read, tmp_path):
    folder = theirs()
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert_same_files(folder, save(read(sharded), tmp_path / "ours"))
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ProblemError, match=f"{lost.name}: cannot be read"):
        read(sharded)
    (sharded / INDEX).write_text("{}")
    with pytest.raises(ProblemError, match=f"{INDEX}: not an index"):
        read(sharded)


def test_both_spellings_of_the_rotary_settings_are_read(theirs):
    folder = theirs(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0})
    new = pretrained_settings(folder)
    document = json.loads((folder / "config.json").read_text())
    del document["rope_parameters"]
    old = {**document, "rope_theta": 1e6, "partial_rotary_factor": 1.0, "rope_scaling": None}
    (folder / "config.json").write_text(json.dumps(old))
    assert pretrained_settings(folder) == new
    assert (new["rope_theta"], new["partial_rotary_factor"]) == (1e6, 1.0)


def prediction_layer(folder):
    """Adds a multi-token-prediction layer, as GLM-4.x checkpoints have it, to a folder; returns its tensors."""
    state = load_file(folder / "model.safetensors")
    layer = {
        name.replace(".2.", ".3.", 1): tensor + 1
        for name, tensor in state.items()
        if name.startswith("model.layers.2.")
    }
    for name, shape in {"enorm": (32,), "hnorm": (32,), "eh_proj": (32, 64), "shared_head.norm": (32,)}.items():
        layer[f"model.layers.3.{name}.weight"] = torch.randn(shape, dtype=torch.bfloat16)
    layer["model.layers.3.embed_tokens.weight"] = torch.randn(96, 32)
    layer["model.layers.3.shared_head.head.weight"] = torch.randn(96, 32)
    save_file({**state, **layer}, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", num_nextn_predict_layers=1)
    return layer


def test_prediction_layers_are_kept_bit_for_bit_where_asked(theirs, read, tmp_path):
    folder = theirs()
    layer = prediction_layer(folder)
    model = read(folder, mtp="keep")
    assert not any("layers.3" in name for name in model.state_dict())
    torch.testing.assert_close(logits(model, TOKENS), logits(read(folder), TOKENS), rtol=0, atol=0)
    model.bfloat16()
    written = model.export_state()
    assert all(
        written[name].dtype == tensor.dtype and torch.equal(written[name], tensor) for name, tensor in layer.items()
    )
    assert model.export_config()["num_nextn_predict_layers"] == 1
    other = read(folder, mtp="keep")
    other.load_export_state(written)
    assert other.kept_tensors.keys() == layer.keys()


def test_prediction_layers_are_dropped_otherwise(theirs, read, tmp_path):
    folder = theirs()
    plain = shutil.copytree(folder, tmp_path / "plain")
    prediction_layer(folder)
    model = read(folder)
    assert model.export_config()["num_nextn_predict_layers"] == 0
    assert_same_files(plain, save(model, tmp_path / "ours"))


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:5], lambda data: b"x" * 500])
def test_a_damaged_file_is_named(theirs, read, damage):
    file = theirs() / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ProblemError, match="damaged") as caught:
        read(file.parent)
    assert caught.value.problems[0].where == str(file)


def test_a_folder_whose_config_ties_another_head_is_refused_and_loads_once_they_agree(theirs, read):
    folder = theirs(tie_word_embeddings=True)
    state = load_file(folder / "model.safetensors")
    embedding = state["model.embed_tokens.weight"]
    save_file({**state, "lm_head.weight": embedding + 1}, folder / "model.safetensors")
    with pytest.raises(ProblemError, match=f"{folder}: the config ties the head .* set tie_word_embeddings to false"):
        read(folder)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    model = read(folder)
    assert torch.equal(model.embed_tokens.weight, embedding)
    assert torch.equal(model.lm_head.weight, embedding + 1)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ProblemError, match=r"'lm_head.weight' is missing, set tie_word_embeddings to true"):
        read(folder)


@pytest.mark.parametrize("names", [{"a": 5}, {"a": "../model.safetensors"}, {"a": ""}, {"a": ["x"]}, {}, ["a"]])
def test_an_index_that_names_no_files_of_the_folder_is_damaged(theirs, read, names):
    folder = theirs()
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ProblemError, match=f"{INDEX}: not an index of safetensors files"):
        read(folder)


def test_tensors_that_the_files_lack_are_named_with_the_folder(theirs, read):
    folder = theirs()
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ProblemError, match=f"{folder}: tensor 'norm.weight' is missing"):
        read(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ProblemError, match=r"model\.safetensors: cannot be read"):
        read(folder)


def test_on_the_meta_device_no_weights_are_read(theirs, read):
    folder = theirs()
    (folder / "model.safetensors").unlink()
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in read(folder).parameters())
