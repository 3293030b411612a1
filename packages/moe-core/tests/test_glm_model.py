"""The model equals transformers' Glm4MoeForCausalLM, and its own slower forms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from penstock.hooks.contracts import LanguageModel, ParameterRole
from penstock.hooks.registry import Registry
from penstock.moe_core.glm.config import PRESETS, GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe


def transformers_twin(model: GlmMoe) -> Glm4MoeForCausalLM:
    """The same model in transformers, loaded through the hub's names."""
    fields = {key: value for key, value in model.export_config().items() if key not in ("architectures", "model_type")}
    twin = Glm4MoeForCausalLM(Glm4MoeConfig(**{**fields, "attn_implementation": "eager"}))
    fused = {}
    for name, tensor in model.state_dict().items():
        fused[name if name.startswith("lm_head") else f"model.{name}"] = tensor
    missing, unexpected = twin.load_state_dict(fused, strict=False)
    assert not missing
    assert not unexpected
    return twin


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"use_qk_norm": False},
        {"k": 1},
        {"k": 6},
        {"attention_bias": False},
        {"tie_word_embeddings": True},
        {"n_shared_experts": 2, "scale": 2.5},
        {"partial_rotary_factor": 1.0},
        {"first_k_dense_replace": 0},
        {"num_key_value_heads": 4, "rope_theta": 1_000_000.0},
    ],
)
def test_logits_and_gradients_equal_transformers(make_model, variant):
    model = make_model(**variant)
    twin = transformers_twin(model)
    token_BS = torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(1))
    output = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:])
    output.loss.backward()
    logits = twin(token_BS[:, :-1]).logits
    torch.testing.assert_close(model.logits(model(token_BS[:, :-1]).hidden_BSD), logits, rtol=1e-5, atol=1e-5)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), token_BS[:, 1:].flatten(), reduction="sum")
    loss.backward()
    torch.testing.assert_close(output.loss, loss, rtol=1e-5, atol=1e-5)
    theirs = {
        name.removeprefix("model."): parameter.grad
        for name, parameter in twin.named_parameters()
        if parameter.grad is not None
    }
    for name, parameter in model.named_parameters():
        gap = (parameter.grad - theirs[name]).norm() / theirs[name].norm().clamp_min(0.1)  # k = 1: the gate has none
        assert gap < 1e-5, f"{name}: relative gradient difference {gap:.2e}"


@pytest.mark.parametrize(("preset", "parameters"), [("glm-4.6", 352_797_814_784), ("glm-4.5-air", 106_852_245_504)])
def test_presets_have_the_published_parameter_counts(make_model, preset, parameters):
    sizes = {key: value for key, value in PRESETS[preset].items() if key != "router"}
    with torch.device("meta"):
        config = GlmMoeConfig.model_validate({"preset": preset, "router": None}, context={"registry": Registry([])})
        router = make_model().routers[1].__class__
        model = GlmMoe(config, make_router=lambda layer, **context: router(k=8, **context))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert config.hidden_size == sizes["hidden_size"]


def test_the_15b_preset_has_15b_parameters(make_model):
    router = make_model().routers[1].__class__
    with torch.device("meta"):
        config = GlmMoeConfig.model_validate(
            {"preset": "glm-15b-a3b", "router": None}, context={"registry": Registry([])}
        )
        model = GlmMoe(config, make_router=lambda layer, **context: router(k=8, **context))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(15e9, rel=0.05)


def test_every_parameter_has_a_role(make_model):
    roles = make_model().parameter_roles()
    assert roles["embed_tokens.weight"] == ParameterRole.EMBEDDING
    assert roles["lm_head.weight"] == ParameterRole.HEAD
    assert roles["layers.0.mlp.gate_proj.weight"] == ParameterRole.MATRIX
    assert roles["layers.1.mlp.gate.weight"] == ParameterRole.ROUTER
    assert roles["layers.1.mlp.experts.gate_up_proj"] == ParameterRole.EXPERT
    assert roles["layers.1.mlp.shared_experts.down_proj.weight"] == ParameterRole.MATRIX
    assert roles["layers.1.self_attn.q_proj.bias"] == ParameterRole.BIAS
    assert roles["layers.1.self_attn.k_norm.weight"] == ParameterRole.NORM
    assert roles["norm.weight"] == ParameterRole.NORM


def test_a_fresh_model_is_an_identity_around_the_residual_stream():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 32,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 8,
        "moe_intermediate_size": 8,
        "n_routed_experts": 2,
    }
    model = GlmMoe(GlmMoeConfig(**sizes), make_router=lambda *_, **__: pytest.fail("no layer has experts"))
    token_BS = torch.tensor([[3, 1, 4]])
    expected = model.norm(model.embed_tokens(token_BS))
    torch.testing.assert_close(model(token_BS).hidden_BSD, expected, rtol=0, atol=0)


def test_masked_tokens_change_neither_loss_nor_gradient(make_model):
    model = make_model()
    token_BS = torch.randint(0, 96, (2, 12))
    target_BS = torch.randint(0, 96, (2, 12))
    mask_BS = torch.ones(2, 12, dtype=torch.bool)
    mask_BS[:, 9:] = False  # the tail is padding: causal attention keeps it from reaching the rest
    model.next_token_loss(token_BS, target_BS, mask_BS).loss.backward()
    masked = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.next_token_loss(token_BS[:, :9], target_BS[:, :9]).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, masked[name], rtol=1e-4, atol=1e-5)


def test_bf16_compute_stays_close_to_fp32_and_keeps_fp32_masters(make_model):
    model = make_model()
    token_BS = torch.randint(0, 96, (2, 12))
    exact = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:]).nll_BS.mean()
    model.compute_dtype = torch.bfloat16
    output = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:])
    output.loss.backward()
    assert output.nll_BS.mean() == pytest.approx(exact.item(), rel=0.02)
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_deepcopy_and_state_round_trip_are_bit_equal(make_model):
    model = make_model()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_export_state(model.export_state())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_model_fulfils_the_contract(make_model):
    members = [name for name in vars(LanguageModel) if not name.startswith("_")]
    model = make_model()
    assert [name for name in (*members, "vocabulary_size") if not hasattr(model, name)] == []
