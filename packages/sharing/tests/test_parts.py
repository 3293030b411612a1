from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from penstock.hooks.contracts import ParameterLayout, ParameterRole
from penstock.sharing.parts import place_of


def test_ours_are_known_by_name():
    parts = {
        "layers.3.self_attn.q_proj.weight": ("q",),
        "layers.3.self_attn.o_proj.weight": ("o",),
        "layers.3.mlp.gate_proj.weight": ("gate",),
        "layers.3.mlp.shared_experts.up_proj.weight": ("up",),
        "layers.3.mlp.down_proj.weight": ("down",),
    }
    for name, expected in parts.items():
        place = place_of(name, ParameterRole.MATRIX)
        assert (place.stack, place.layer, place.parts) == ("layers", 3, expected)
        assert place.block == "layers.3"
        assert place.half == ("attention" if "self_attn" in name else "feed-forward")
    assert place_of("layers.1.mlp.experts.gate_up_proj", ParameterRole.EXPERT).parts == ("experts",)
    assert place_of("layers.1.mlp.gate.weight", ParameterRole.ROUTER).parts == ("router",)
    assert place_of("embed_tokens.weight", ParameterRole.EMBEDDING).parts == ("embedding",)
    assert place_of("embed_positions.weight", ParameterRole.EMBEDDING).parts == ("positions",)
    assert place_of("embed_types.weight", ParameterRole.EMBEDDING).parts == ("other",)


def test_a_layout_that_names_its_matrices_tells_the_parts():
    layout = ParameterLayout((("gate", 4), ("up", 4)))
    assert place_of("layers.0.anything.weight", ParameterRole.MATRIX, layout).parts == ("gate", "up")
    unnamed = ParameterLayout(transposed=True)
    assert place_of("h.0.attn.c_attn.weight", ParameterRole.MATRIX, unnamed).parts == ("q", "k", "v")


def bert():
    return BertModel(BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=2, n_head=2))


def t5(kind: str = "relu"):
    sizes: dict[str, Any] = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, feed_forward_proj=kind))


PER_LAYER = {
    "bert": (bert, "encoder.layer", ["q", "k", "v", "o", "up", "down"]),
    "gpt2": (gpt2, "transformer.h", ["q+k+v", "o", "up", "down"]),
    "t5 encoder": (t5, "encoder.block", ["q", "k", "v", "o", "up", "down"]),
    "t5 decoder": (t5, "decoder.block", ["q", "k", "v", "o", "q", "k", "v", "o", "up", "down"]),
    "t5 gated": (lambda: t5("gated-gelu"), "encoder.block", ["q", "k", "v", "o", "gate", "up", "down"]),
}


@pytest.mark.parametrize("family", PER_LAYER)
def test_every_matrix_of_a_layer_of_transformers_has_its_part(family: str):
    make, stack, expected = PER_LAYER[family]
    with torch.device("meta"):
        names = [name for name, each in make().named_parameters() if each.dim() == 2]
    places = [place_of(name, ParameterRole.MATRIX) for name in names if "relative_attention_bias" not in name]
    assert ["+".join(each.parts) for each in places if (each.stack, each.layer) == (stack, 1)] == expected


def test_norms_and_biases_belong_to_a_half():
    norms = {
        ("layers", "input_layernorm.weight"): "attention",
        ("layers", "self_attn.q_norm.weight"): "attention",
        ("layers", "post_attention_layernorm.weight"): "feed-forward",
        ("transformer.h", "ln_1.weight"): "attention",
        ("transformer.h", "ln_2.bias"): "feed-forward",
        ("encoder.layer", "attention.output.LayerNorm.weight"): "attention",
        ("encoder.layer", "output.LayerNorm.bias"): "feed-forward",
        ("encoder.block", "layer.1.layer_norm.weight"): "feed-forward",
        ("decoder.block", "layer.1.layer_norm.weight"): "cross-attention",
        ("decoder.block", "layer.2.layer_norm.weight"): "feed-forward",
        ("layers", "mlp.experts.sub_norm"): "feed-forward",
    }
    for (stack, rest), half in norms.items():
        assert place_of(f"{stack}.0.{rest}", ParameterRole.NORM).half == half
    biases = {"attn.c_attn.bias": "attention", "mlp.c_fc.bias": "feed-forward", "output.dense.bias": "feed-forward"}
    for rest, half in biases.items():
        assert place_of(f"h.0.{rest}", ParameterRole.BIAS).half == half
