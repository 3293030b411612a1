"""A layout says which rows of a fused tensor are q, k, v, gate and up: each is told from the others by what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from families import DENSE, MIXTURES, SIZES, VOCABULARY, build, tokens
from penstock_hf_models.build import hf_model
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from penstock.hooks.contracts import LaidOut, ParameterLayout, ParameterRole

HEADS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8}
BIGCODE = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
ATTENTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", DENSE["gpt2"]),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gpt_neox": ("gpt_neox", {**HEADS, "intermediate_size": 48}),
    "gpt_neox_japanese": ("gpt_neox_japanese", {**HEADS, "intermediate_multiple_size": 2}),
    "falcon with groups": ("falcon", {**HEADS, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon with one key": ("falcon", HEADS),
    "falcon": ("falcon", {**HEADS, "multi_query": False}),
    "codegen": ("codegen", {**BIGCODE, "n_ctx": 64, "rotary_dim": 4}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "gpt_bigcode with one key": ("gpt_bigcode", BIGCODE),
    "gpt_bigcode": ("gpt_bigcode", {**BIGCODE, "multi_query": False}),
    "phi3": ("phi3", {**SIZES, "pad_token_id": 0}),
    "dbrx": (
        "dbrx",
        {
            **{"d_model": 32, "n_heads": 4, "n_layers": 2},
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 1e4},
            "ffn_config": {"ffn_hidden_size": 16, "hidden_size": 32},
        },
    ),
    "modernbert": ("modernbert", {**HEADS, "intermediate_size": 48, "pad_token_id": 0}),
    "openai-gpt": ("openai-gpt", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "persimmon": ("persimmon", {**HEADS, "intermediate_size": 48, "qk_layernorm": False}),
    "deberta": ("deberta", {**HEADS, "intermediate_size": 48, "pos_att_type": []}),
}
LINEAR = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "layer_types": ["linear_attention"] * 2}
DELTA = {
    **{"layer_types": ["linear_attention"] * 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 4},
}
FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WITH_VALUES = {  # no softmax of the product of these q and k alone
    **ATTENTIONS,
    "minimax": ("minimax", {**SIZES, **LINEAR}),
    "deepseek_v3": ("deepseek_v3", {**MIXTURES["deepseek_v3"], "qk_nope_head_dim": 4}),
    "qwen3_next": ("qwen3_next", {**SIZES, **DELTA, **FEW}),
    "qwen3_5": ("qwen3_5_text", {**SIZES, **DELTA}),
}
GATED = {
    **{
        family: (family, MIXTURES[family]) for family in ("mixtral", "qwen3_moe", "jetmoe", "granitemoe", "llama4_text")
    },
    "glm4": ("glm4", {**SIZES, "head_dim": 8, "pad_token_id": 0}),
    "phi3": ATTENTIONS["phi3"],
    "modernbert": ATTENTIONS["modernbert"],
    "granitemoeshared": ("granitemoeshared", {**MIXTURES["granitemoe"], "shared_intermediate_size": 24}),
}
RECURRENT = {
    "mamba": ("mamba", DENSE["mamba"]),
    "falcon_mamba": ("falcon_mamba", {**DENSE["mamba"], "time_step_rank": 2}),
}

DOWN = (
    "experts.down_proj",
    "mlp.down_proj.weight",
    "mlp.Wo.weight",
    "block_sparse_moe.output_linear.weight",
    "mlp.output_linear.weight",
)


def drawn(case: tuple[str, dict[str, Any]]) -> Any:
    """A model of random weights without biases, which would move what is to stay."""
    family, settings = case
    torch.manual_seed(0)
    task = "masked" if family in {"modernbert", "deberta"} else "causal"
    model = hf_model(task=task, model_type=family, settings=settings, vocab_size=VOCABULARY).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_() if "bias" in name else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def hidden(model: Any, token_BS: Tensor) -> Tensor:
    with torch.no_grad():
        return model(token_BS).hidden_BSD


def change(model: Any, **changes: Callable[[Tensor], Tensor]) -> int:
    """Changes the matrices of these names in every fused tensor; returns in how many tensors there are any."""
    parameters = dict(model.named_parameters())
    changed = 0
    for name, layout in model.parameter_layout().items():
        stored = parameters[name].data
        matrices = {part: each.clone() for part, each in layout.matrices(stored).items()}
        layout.write(stored, {part: changes.get(part, torch.clone)(each) for part, each in matrices.items()})
        changed += bool(changes.keys() & matrices.keys())
    return changed


@pytest.mark.parametrize("case", WITH_VALUES.values(), ids=WITH_VALUES)
def test_without_values_no_position_sees_another(case):
    model, first, second = drawn(case), tokens(2, 9), tokens(2, 9)
    second[:, :4] = (second[:, :4] + 1) % VOCABULARY
    assert not torch.allclose(hidden(model, first)[:, 5:], hidden(model, second)[:, 5:], rtol=1e-3, atol=1e-3)
    assert change(model, v=torch.zeros_like) == 2
    torch.testing.assert_close(hidden(model, first)[:, 5:], hidden(model, second)[:, 5:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ATTENTIONS.values(), ids=ATTENTIONS)
def test_attention_depends_on_the_product_of_queries_and_keys(case):
    model, token_BS = drawn(case), tokens(2, 9)
    before = hidden(model, token_BS)
    assert change(model, q=lambda matrix: 2 * matrix) == 2
    assert not torch.allclose(hidden(model, token_BS), before, rtol=1e-3, atol=1e-3)
    change(model, k=lambda matrix: matrix / 2)
    torch.testing.assert_close(hidden(model, token_BS), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", GATED.values(), ids=GATED)
def test_the_up_matrix_is_a_factor_and_the_gate_is_not(case):
    model, token_BS = drawn(case), tokens(2, 9)
    before = hidden(model, token_BS)
    assert change(model, up=lambda matrix: 2 * matrix) >= 2
    down = [
        name for name in dict(model.named_parameters()) if name.endswith(DOWN) and "feed_forward.shared" not in name
    ]
    with torch.no_grad():
        for name in down:
            model.get_parameter(name).div_(2)
    torch.testing.assert_close(hidden(model, token_BS), before, rtol=1e-4, atol=1e-4)
    change(model, gate=torch.zeros_like)
    without = hidden(model, token_BS)
    change(model, up=torch.randn_like)
    assert torch.equal(hidden(model, token_BS), without)


@pytest.mark.parametrize("case", RECURRENT.values(), ids=RECURRENT)
def test_a_closed_gate_of_a_state_space_lets_nothing_through(case):
    model, token_BS = drawn(case), tokens(2, 9)
    assert change(model, gate=torch.zeros_like) == 2
    without = hidden(model, token_BS)
    change(model, state=torch.randn_like)
    assert torch.equal(hidden(model, token_BS), without)


def test_a_state_space_multiplies_what_it_writes_by_what_it_reads():
    model, token_BS = drawn(RECURRENT["mamba"]), tokens(2, 9)
    before = hidden(model, token_BS)
    assert change(model, b=lambda matrix: 2 * matrix) == 2
    assert not torch.allclose(hidden(model, token_BS), before, rtol=1e-3, atol=1e-3)
    change(model, c=lambda matrix: matrix / 2)
    torch.testing.assert_close(hidden(model, token_BS), before, rtol=1e-4, atol=1e-4)


def test_a_table_that_multiplies_no_input_is_no_matrix():
    model = drawn(RECURRENT["mamba"])
    rates = {role for name, role in model.parameter_roles().items() if name.endswith("A_log")}
    assert rates == {ParameterRole.NORM}


def test_a_short_convolution_has_two_factors_and_a_convolved_matrix():
    kinds = {"layer_types": ["conv", "conv"], "block_multiple_of": 8}
    model, token_BS = drawn(("lfm2", {**SIZES, **kinds, "pad_token_id": 0})), tokens(2, 9)
    before = hidden(model, token_BS)
    for doubled, halved in (("before", "after"), ("after", "whole")):
        assert change(model, **{doubled: lambda matrix: 2 * matrix}) == 2
        assert not torch.allclose(hidden(model, token_BS), before, rtol=1e-3, atol=1e-3)
        change(model, **{halved: lambda matrix: matrix / 2})
        torch.testing.assert_close(hidden(model, token_BS), before, rtol=1e-4, atol=1e-4)


def test_a_fused_tensor_of_an_unknown_class_is_one_matrix_and_is_named_once(caplog):
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16}
    model = hf_model(model_type="mamba2", settings={**settings, "n_groups": 1}, vocab_size=VOCABULARY)
    assert model.parameter_layout() == {}
    assert caplog.messages == [
        "how these weights are divided into matrices is not known, so muon updates each as one matrix: "
        "Mamba2Mixer.in_proj"
    ]


@pytest.mark.parametrize("family", [*DENSE, *MIXTURES])
def test_every_fused_tensor_of_a_known_family_is_divided(family, caplog):
    build(family, task="masked" if family == "bert" else "causal").parameter_layout()
    assert [record for record in caplog.records if record.name == "penstock"] == []


def test_rows_of_gpt_oss_are_gate_and_up_in_turn():
    model, token_BS = build("gpt_oss"), tokens(2, 9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate_up_proj_bias"):
                parameter.zero_()
    change(model, gate=torch.zeros_like)  # what is gated is up + 1, so a gate of zeros alone lets nothing through
    without = hidden(model, token_BS)
    change(model, up=torch.randn_like)
    assert torch.equal(hidden(model, token_BS), without)


def test_a_transposed_matrix_is_the_one_that_multiplies():
    model = drawn(ATTENTIONS["gpt2"])
    layouts = model.parameter_layout()
    modules = {name: each for name, each in model.named_modules() if isinstance(each, Conv1D)}
    assert layouts.keys() == {f"{name}.weight" for name in modules}
    assert layouts["network.transformer.h.0.attn.c_proj.weight"] == ParameterLayout(transposed=True)
    for name, module in modules.items():
        matrix = torch.cat([*layouts[f"{name}.weight"].matrices(module.weight).values()])
        x_TD = torch.randn(3, matrix.shape[1])
        torch.testing.assert_close(module(x_TD), x_TD @ matrix.T)


@pytest.mark.parametrize("family", ["gpt_oss", "llama4_text"])
def test_stacks_that_lie_transposed_say_so(family):
    model = build(family)
    stacks = {name for name, role in model.parameter_roles().items() if role == ParameterRole.EXPERT}
    shapes = {name: model.parameter_layout()[name].shapes(tuple(model.get_parameter(name).shape)) for name in stacks}
    assert len(stacks) == 4
    for name, of_parts in shapes.items():
        expected = {"whole": (4, 32, 48)} if "down" in name else dict.fromkeys(("gate", "up"), (4, 48, 32))
        assert of_parts == expected


@pytest.mark.parametrize("family", [*DENSE, *MIXTURES])
def test_layouts_name_matrices_and_take_their_tensors_apart_whole(family):
    task = "masked" if family == "bert" else "causal"
    model = build(family, task=task)
    assert isinstance(cast(object, model), LaidOut)
    roles, parameters = model.parameter_roles(), dict(model.named_parameters())
    for name, layout in model.parameter_layout().items():
        assert roles[name] in {ParameterRole.MATRIX, ParameterRole.EXPERT}
        found = sum(each.numel() for each in layout.matrices(parameters[name].detach()).values())
        assert found == parameters[name].numel()


def test_a_family_whose_matrices_lie_alone_has_no_layouts():
    assert build("llama").parameter_layout() == {}
