"""`Gpt` equals transformers' GPT2LMHeadModel: logits within 1e-5, every gradient within 1e-5 of its largest value, for
weights that either of them wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from penstock.hooks.contracts import Inputs, ParameterRole
from penstock.hooks.problems import ProblemError
from penstock.moe_core.gpt.config import GptConfig
from penstock.moe_core.gpt.huggingface import to_hub_names
from penstock.moe_core.gpt.model import Gpt, gpt

VOCABULARY, BATCH, SEQUENCE = 61, 3, 12
SIZES: dict[str, Any] = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 20, "vocab_size": VOCABULARY}
SHAPES: dict[str, dict[str, Any]] = {
    "as published": {},
    "narrow MLP, exact GELU": {"n_inner": 20, "activation_function": "gelu"},
    "a head of its own": {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
}


def published(folder: Path, **settings: Any) -> GPT2LMHeadModel:
    """A model of transformers whose random weights all differ from zero; writes it to the folder."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**{**SIZES, "bos_token_id": 0, "eos_token_id": 0, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def tokens(length: int = SEQUENCE, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY, (BATCH, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_equal_transformers(tmp_path, shape, padding):
    twin, model = published(tmp_path, **SHAPES[shape]), gpt(pretrained=tmp_path)
    token_BS, target_BS = tokens(), tokens(seed=2)
    real_BS = torch.ones(BATCH, SEQUENCE, dtype=torch.bool)
    for row in range(BATCH if padding != "none" else 0):
        real_BS[row, : 2 * row] = False
    real_BS = real_BS.flip(1) if padding == "right" else real_BS
    position_BS = (real_BS.cumsum(1) - 1).clamp(min=0)

    logits = model.logits(model(Inputs(token_BS, real_BS)).hidden_BSD)
    expected = twin(input_ids=token_BS, attention_mask=real_BS.long(), position_ids=position_BS).logits
    torch.testing.assert_close(logits[real_BS], expected[real_BS], rtol=1e-5, atol=1e-5)

    model.next_token_loss(Inputs(token_BS, real_BS), target_BS).loss.backward()
    F.cross_entropy(expected[real_BS], target_BS[real_BS], reduction="sum").backward()
    ours = to_hub_names({name: cast(Tensor, each.grad) for name, each in model.named_parameters()})
    theirs = {name: cast(Tensor, each.grad) for name, each in twin.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        gap = (ours[name] - grad).abs().max() / grad.abs().max()
        assert gap < 1e-5, f"{name}: relative gradient difference {gap:.2e}"


def test_a_state_that_is_read_and_written_has_the_bits_of_the_file(tmp_path):
    published(tmp_path)
    written, state = load_file(tmp_path / "model.safetensors"), gpt(pretrained=tmp_path).export_state()
    assert state.keys() == written.keys()
    assert all(torch.equal(state[name], written[name]) for name in written)


def test_files_without_prefix_and_with_masks_are_read(tmp_path):
    twin = published(tmp_path)
    state = {
        name.removeprefix("transformer."): each for name, each in load_file(tmp_path / "model.safetensors").items()
    }
    mask = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    for layer in range(2):
        state |= {f"h.{layer}.attn.bias": mask, f"h.{layer}.attn.masked_bias": torch.tensor(-1e4)}
        mask = mask.clone()
    save_file({**state, "lm_head.weight": state["wte.weight"].clone()}, tmp_path / "model.safetensors")
    model = gpt(pretrained=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(tokens()).hidden_BSD), twin(tokens()).logits)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"activation_function": "gelu_fast"}, 'asks for activation_function = "gelu_fast"'),
        ({"activation_function": "relu"}, 'asks for activation_function = "relu"'),
        ({"scale_attn_by_inverse_layer_idx": True}, "asks for scale_attn_by_inverse_layer_idx = true"),
        ({"scale_attn_weights": False}, "asks for scale_attn_weights = false"),
        ({"add_cross_attention": True}, "asks for add_cross_attention = true"),
        ({"n_embd": "wide"}, "'n_embd' is \"wide\", not an integer"),
        ({"model_type": "gptj"}, "is a model of type 'gptj'"),
    ],
)
def test_what_a_gpt_does_not_compute_is_refused_by_name(tmp_path, fields, named):
    published(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(ValueError, match="pretrained") as refused:
        GptConfig(pretrained=tmp_path)
    assert named in str(refused.value)


def test_a_tensor_that_a_file_lacks_is_named(tmp_path):
    published(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["transformer.h.1.attn.c_attn.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ProblemError, match=r"'layers\.1\.self_attn\.q_proj\.bias' is missing"):
        gpt(pretrained=tmp_path)


def test_sizes_of_a_checkpoint_may_not_be_contradicted(tmp_path):
    published(tmp_path)
    assert GptConfig(pretrained=tmp_path).intermediate_size == 96
    with pytest.raises(ValueError, match="is 3, but 2 in the pretrained model"):
        GptConfig(pretrained=tmp_path, num_hidden_layers=3)


def small(**settings: Any) -> Gpt:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    model = Gpt(GptConfig(**{**sizes, "max_position_embeddings": 20, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_a_shared_projection_is_written_apart_and_once():
    model, other = small(), small()
    each: Any
    for each in (model, other):
        each.layers[1].self_attn.k_proj.weight = each.layers[0].self_attn.k_proj.weight
    state = model.export_state()
    shared = [name for name in state if name.endswith("attn.k_proj.weight")]
    assert shared == [f"transformer.h.{layer}.attn.k_proj.weight" for layer in (0, 1)]
    assert len({state[name].data_ptr() for name in shared}) == 1
    assert "transformer.h.0.attn.c_attn.bias" in state  # biases are not shared
    assert model.export_config()["model_type"] == "penstock_gpt"  # so transformers refuses the file
    assert model.published_config()["model_type"] == "gpt2"
    assert "transformer.h.1.attn.c_attn.weight" in model.published_state()
    other.load_export_state(model.export_state())
    assert torch.equal(other(tokens()).hidden_BSD, model(tokens()).hidden_BSD)


def test_sub_norm_is_a_part_that_transformers_lacks():
    model = small(sub_norm=True)
    assert model.export_config()["model_type"] == "penstock_gpt"
    assert model.parameter_roles()["layers.0.mlp.sub_norm.weight"] == ParameterRole.NORM
    with pytest.raises(ProblemError, match=r"no transformers class has a norm before.*set sub_norm to false"):
        model.published_config()
    other = small(sub_norm=True)
    other.load_export_state(model.export_state())
    assert torch.equal(other(tokens()).hidden_BSD, model(tokens()).hidden_BSD)


def test_positions_are_counted_in_each_document():
    model, (first, second) = small(), (tokens()[:1, :5], tokens()[:1, 5:])
    document_BS = torch.tensor([[0] * 5 + [1] * 7])
    together = model(Inputs(torch.cat((first, second), dim=1), document_BS=document_BS)).hidden_BSD
    torch.testing.assert_close(together[:, :5], model(first).hidden_BSD)
    torch.testing.assert_close(together[:, 5:], model(second).hidden_BSD)


def test_positions_without_an_embedding_are_refused():
    model = small()
    with pytest.raises(ProblemError, match="position 20 has no embedding: the model has 20"):
        model(tokens(21))
    with pytest.raises(ProblemError, match="position 30"):
        model(Inputs(tokens(4), position_BS=torch.full((BATCH, 4), 30)))
    padded = torch.ones(BATCH, 25, dtype=torch.bool)
    padded[:, :5] = False
    assert model(Inputs(tokens(25), padded)).hidden_BSD.shape[1] == 25
    assert model.generate(tokens(17), tokens=50).shape[1] == 20


def test_gpt2_has_the_parameters_of_the_published_model():
    with torch.device("meta"):
        model = Gpt(GptConfig(preset="gpt2"))
    assert sum(each.numel() for each in model.parameters()) == 124_439_808


def test_a_dense_model_refuses_routers():
    with pytest.raises(ValueError, match="a gpt is dense, so it has no routers"):
        GptConfig(overrides=[{"match": "layers.*", "router": "sigmoid-topk"}])  # pyright: ignore[reportArgumentType]


def test_embeddings_of_tokens_and_positions_have_one_role_and_the_head_another():
    roles = small(tie_word_embeddings=False).parameter_roles()
    assert roles["embed_tokens.weight"] == roles["embed_positions.weight"] == ParameterRole.EMBEDDING
    assert roles["lm_head.weight"] == ParameterRole.HEAD
    assert roles["norm.bias"] == roles["layers.0.input_layernorm.bias"] == ParameterRole.BIAS


def test_decoders_are_told_what_they_lack():
    assert small().decoder_description() == {"unsupported": "a gpt has LayerNorm and learned positions"}
