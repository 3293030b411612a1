"""Laws of strategies that share across layers and stacks, on models of transformers built from configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import ProblemError
from penstock.sharing.across import AttentionSharing, CrossLayer, FeedForwardSharing
from penstock.sharing.apply import share_module
from penstock.sharing.encoder_decoder import EncoderDecoder
from penstock.sharing.layers import Pattern
from penstock.sharing.tied import TiedEmbeddings


def bert(layers: int = 6) -> Any:
    sizes: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=16, num_hidden_layers=layers, max_position_embeddings=8, **sizes)).eval()


def gpt2(layers: int = 4) -> Any:
    torch.manual_seed(0)
    tokens: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=layers, n_head=2, **tokens)
    ).eval()


def t5(layers: int = 4) -> Any:
    sizes: dict[str, Any] = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2}
    sizes["decoder_start_token_id"] = 0
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(**sizes, num_layers=layers)).eval()


def bart() -> Any:
    sizes: dict[str, Any] = {"d_model": 8, "encoder_layers": 3, "decoder_layers": 2, "max_position_embeddings": 8}
    heads: dict[str, Any] = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths: dict[str, Any] = {"encoder_ffn_dim": 12, "decoder_ffn_dim": 12}
    torch.manual_seed(0)
    return BartModel(BartConfig(vocab_size=16, **sizes, **heads, **widths))


def letters(model: Any, weight: str, layers: int = 6) -> str:
    """Which layers have one weight, as letters."""
    found = [id(model.get_parameter(weight.format(layer))) for layer in range(layers)]
    names = {each: chr(ord("A") + at) for at, each in enumerate(dict.fromkeys(found))}
    return "".join(names[each] for each in found)


QUERY, UP = "encoder.layer.{}.attention.self.query.weight", "encoder.layer.{}.intermediate.dense.weight"
NORM, BIAS = "encoder.layer.{}.output.LayerNorm.bias", "encoder.layer.{}.intermediate.dense.bias"


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (CrossLayer(), "AAAAAA"),
        (CrossLayer("sequential", interval=2), "AABBCC"),
        (CrossLayer("sequential", interval=4), "AAAABB"),
        (CrossLayer("sequential", distinct=2), "AAABBB"),
        (CrossLayer("sequential", distinct=4), "ABBCDD"),
        (CrossLayer("alternate", distinct=2), "ABABAB"),
        (CrossLayer("alternate", distinct=4), "ABCDAB"),
        (CrossLayer("sparse", groups=[[0, 5], [1, 4]]), "ABCDBA"),
    ],
)
def test_a_pattern_says_which_layers_are_one(strategy: CrossLayer, expected: str) -> None:
    model = bert()
    share_module(model, [strategy])
    assert letters(model, QUERY) == letters(model, UP) == expected
    assert letters(model, NORM) == letters(model, BIAS) == "ABCDEF"


def test_norms_and_biases_are_shared_with_the_parts_that_they_belong_to() -> None:
    model = bert()
    share_module(model, [AttentionSharing(norms=True, biases=True), FeedForwardSharing(interval=3, norms=True)])
    attention = {QUERY, QUERY.replace("weight", "bias"), "encoder.layer.{}.attention.output.LayerNorm.weight"}
    assert {letters(model, name) for name in attention} == {"AAAAAA"}
    assert letters(model, UP) == letters(model, NORM) == "AAABBB"
    assert letters(model, BIAS) == "ABCDEF"


def test_parts_are_shared_alone() -> None:
    model = bert()
    share_module(model, [CrossLayer(parts=["q", "down"])])
    assert letters(model, QUERY) == letters(model, "encoder.layer.{}.output.dense.weight") == "AAAAAA"
    assert letters(model, "encoder.layer.{}.attention.self.key.weight") == letters(model, UP) == "ABCDEF"


def test_the_gradient_of_a_shared_weight_is_the_sum_over_its_uses() -> None:
    shared, apart = bert(3), bert(3)
    share_module(shared, [CrossLayer(norms=True, biases=True)])
    apart.load_state_dict(shared.state_dict())
    token_BS = torch.arange(12).view(2, 6)
    for model in (shared, apart):
        model(token_BS).last_hidden_state.square().sum().backward()
    for weight in (QUERY, UP, NORM, BIAS):
        total = sum(apart.get_parameter(weight.format(layer)).grad for layer in range(3))
        torch.testing.assert_close(shared.get_parameter(weight.format(0)).grad, total)


def test_a_decoder_is_shared_and_computes() -> None:
    model = gpt2()
    before = model.num_parameters()
    share_module(model, [CrossLayer("alternate", distinct=2, norms=True, biases=True)])
    layer = sum(parameter.numel() for parameter in gpt2().transformer.h[0].parameters())
    assert model.num_parameters() == before - 2 * layer
    assert letters(model, "transformer.h.{}.attn.c_attn.weight", 4) == "ABAB"
    model(torch.arange(6)[None]).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_encoder_and_decoder_are_one_layer_by_layer() -> None:
    model = t5(2)
    share_module(model, [EncoderDecoder(norms=True)])
    for layer in range(2):
        encoder, decoder = model.encoder.block[layer].layer, model.decoder.block[layer].layer
        assert encoder[0].SelfAttention.q.weight is decoder[0].SelfAttention.q.weight
        assert encoder[1].DenseReluDense.wi.weight is decoder[2].DenseReluDense.wi.weight
        assert encoder[0].layer_norm.weight is decoder[0].layer_norm.weight
        assert encoder[1].layer_norm.weight is decoder[2].layer_norm.weight
        assert encoder[0].SelfAttention.q.weight is not decoder[1].EncDecAttention.q.weight
    assert model.encoder.block[0] is not model.encoder.block[1]


def test_stacks_of_unequal_depth_share_the_layers_that_both_have() -> None:
    model = bart()
    share_module(model, [EncoderDecoder(parts=["up", "down"], biases=True)])
    assert model.encoder.layers[1].fc1.bias is model.decoder.layers[1].fc1.bias
    assert model.encoder.layers[1].self_attn.q_proj.weight is not model.decoder.layers[1].self_attn.q_proj.weight
    assert not {id(each) for each in model.encoder.layers[2].parameters()} & {
        id(each) for each in model.decoder.parameters()
    }


@pytest.mark.parametrize("first", [True, False])
def test_what_is_shared_within_stacks_and_across_them_is_one_group(first: bool) -> None:
    strategies: list[Any] = [EncoderDecoder(), CrossLayer(interval=2)]
    model = t5()
    share_module(model, strategies if first else strategies[::-1])
    weights = {
        (stack, layer): model.get_submodule(stack).block[layer].layer[0].SelfAttention.q.weight
        for stack in ("encoder", "decoder")
        for layer in range(4)
    }
    assert len({id(each) for each in weights.values()}) == 2
    assert weights["encoder", 0] is weights["encoder", 1] is weights["decoder", 0] is weights["decoder", 1]
    cross = [model.decoder.block[layer].layer[1].EncDecAttention.q.weight for layer in range(4)]
    assert cross[0] is cross[1] is not cross[2]
    model(input_ids=torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()


@pytest.mark.parametrize(
    ("model", "strategies", "named"),
    [
        (gpt2, [CrossLayer(parts=["q", "k"])], ["q, k and v are one tensor", "share all three"]),
        (gpt2, [CrossLayer(parts=["gate"])], ["no layer of the model has the part 'gate'", "down, "]),
        (gpt2, [CrossLayer("sparse", groups=[[0, 7]])], ["[0, 7] names no parameter", "no layer 7", "0 to 3"]),
        (gpt2, [EncoderDecoder()], ["no encoder and decoder"]),
        (gpt2, [CrossLayer("alternate", distinct=4)], ["no two layers"]),
        (
            gpt2,
            [AttentionSharing(), CrossLayer()],
            ["model.sharing.0 (AttentionSharing) and model.sharing.1 (CrossLayer)", "is claimed by"],
        ),
        (lambda: nn.Linear(2, 2), [CrossLayer()], ["no two layers"]),
    ],
)
def test_what_cannot_be_shared_is_named(model: Any, strategies: list[Any], named: list[str]) -> None:
    with pytest.raises(ProblemError) as caught:
        share_module(model(), strategies)
    assert all(part in str(caught.value) for part in named), str(caught.value)


class Growing(nn.Module):
    """Layers that get wider."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(4, 4 + layer // 2)}) for layer in range(4))


def test_unequal_shapes_are_named_before_anything_is_tied() -> None:
    model = Growing()
    before = dict(model.named_parameters())
    with pytest.raises(ProblemError) as caught:
        share_module(model, [CrossLayer(biases=True)])
    for part in ("'layers.0.q_proj.weight'", "'layers.2.q_proj.weight'", "[4, 4]", "[5, 4]", "pattern: sparse"):
        assert part in str(caught.value)
    assert dict(model.named_parameters()) == before
    share_module(model, [CrossLayer(interval=2, biases=True)])
    assert len(dict(model.named_parameters())) == 4


def test_positions_and_token_types_are_no_embedding_to_tie() -> None:
    embeddings = ("wte.weight", "wpe.weight", "embed_types.weight")
    roles: dict[str, ParameterRole] = dict.fromkeys(embeddings, ParameterRole.EMBEDDING)
    roles["lm_head.weight"] = ParameterRole.HEAD
    plan = TiedEmbeddings().plan(roles, dict.fromkeys(roles, (8, 2)))
    assert plan.groups == (("wte.weight", "lm_head.weight"),)


def test_patterns_of_no_layers_have_no_groups() -> None:
    assert Pattern().of([]) == Pattern("alternate", distinct=3).of([]) == []
