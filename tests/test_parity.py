"""`GlmMoe` with our routers equals transformers' Glm4MoeForCausalLM: logits and every gradient, in fp32 within 1e-5, on
random configurations, with padding on either side."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from penstock.hooks.contracts import Inputs
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.routers.topk import SigmoidTopK

VOCABULARY, EXPERTS, BATCH, SEQUENCE = 64, 8, 3, 12


@st.composite
def routings(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 2]))
    groups_kept = draw(st.integers(1, groups))
    most = EXPERTS * groups_kept // groups
    return {
        "groups": groups,
        "groups_kept": groups_kept,
        "k": draw(st.sampled_from([1, 2, 3, most])),
        "normalize": draw(st.booleans()),
        "scale": draw(st.sampled_from([1.0, 2.5])),
    }


sizes = st.fixed_dictionaries(
    {
        "num_attention_heads": st.sampled_from([2, 4]),
        "num_key_value_heads": st.sampled_from([1, 2]),
        "head_dim": st.sampled_from([8, 16]),
        "partial_rotary_factor": st.sampled_from([0.5, 1.0]),
        "use_qk_norm": st.booleans(),
        "attention_bias": st.booleans(),
        "tie_word_embeddings": st.booleans(),
        "first_k_dense_replace": st.integers(0, 3),
        "n_shared_experts": st.integers(1, 2),
        "experts_backend": st.sampled_from(["grouped", "batched", "loop", None]),
    }
)


def random_model(size: dict[str, Any], routing: dict[str, Any], seed: int) -> GlmMoe:
    torch.manual_seed(seed)
    config = GlmMoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        intermediate_size=24,
        moe_intermediate_size=16,
        n_routed_experts=EXPERTS,
        **size,
    )
    model = GlmMoe(config, make_router=lambda layer, **sizes: SigmoidTopK(**sizes, **routing))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for router in model.routers.values():
            # Around -1: with a group filled by zeros instead of -inf, experts of dropped groups would be chosen.
            cast(SigmoidTopK, router).e_score_correction_bias.copy_(torch.randn(EXPERTS) * 0.3 - 1.0)
    return model


def twin_of(model: GlmMoe) -> Glm4MoeForCausalLM:
    fields: dict[str, Any] = {
        name: value for name, value in model.export_config().items() if name not in ("architectures", "model_type")
    }
    twin = Glm4MoeForCausalLM(Glm4MoeConfig(**{**fields, "attn_implementation": "eager"}))
    names = {
        name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in model.state_dict().items()
    }
    twin.load_state_dict(names)
    return twin


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(size=sizes, routing=routings(), seed=st.integers(0, 1000))
def test_logits_and_gradients_equal_transformers(padding, size, routing, seed):
    model = random_model(size, routing, seed)
    twin = twin_of(model)
    token_BS = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE))
    target_BS = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE))
    real_BS = torch.ones(BATCH, SEQUENCE, dtype=torch.bool)
    for row in range(BATCH if padding != "none" else 0):
        real_BS[row, : 2 * row] = False
    real_BS = real_BS.flip(1) if padding == "right" else real_BS

    logits = model.logits(model(Inputs(token_BS, real_BS)).hidden_BSD)
    expected = twin(input_ids=token_BS, attention_mask=real_BS.long()).logits
    torch.testing.assert_close(logits[real_BS], expected[real_BS], rtol=1e-5, atol=1e-5)

    loss = model.next_token_loss(Inputs(token_BS, real_BS), target_BS, real_BS).loss
    loss.backward()
    F.cross_entropy(expected[real_BS], target_BS[real_BS], reduction="sum").backward()
    theirs = {name.removeprefix("model."): cast(Tensor, each.grad) for name, each in twin.named_parameters()}
    for name, parameter in model.named_parameters():
        # An expert that no token chose, and the gate where the weights of k = 1 are always 1, have no gradient.
        gap = (cast(Tensor, parameter.grad) - theirs[name]).norm() / theirs[name].norm().clamp_min(0.1)
        assert gap < 1e-5, f"{name}: relative gradient difference {gap:.2e}"
