"""Counts in closed form are those of the built model, role by role."""

import random

import pytest
import torch

from penstock.moe_core.glm import counts as glm
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.moe_core.gpt import counts as gpt
from penstock.moe_core.gpt.config import GptConfig
from penstock.moe_core.gpt.model import Gpt
from penstock.moe_core.plan.weights import active, by_role, forward_flops, total


def built_by_role(model):
    roles, counts = model.parameter_roles(), {}
    for name, parameter in model.named_parameters():  # a shared one once
        role = roles.get(name, "matrix")  # projections that factorising added
        counts[str(role)] = counts.get(str(role), 0) + parameter.numel()
    return counts


def factorised(model, rank):
    model.embed_tokens.factorise(rank)
    model.lm_head.factorise(rank)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight


@pytest.mark.parametrize("seed", range(200))
def test_a_glm_has_the_parameters_that_were_counted(make_router, seed):
    draw = random.Random(seed)
    kv, layers, width = draw.choice([1, 2, 3]), draw.randint(1, 5), 8 * draw.randint(2, 9)
    config = GlmMoeConfig(
        vocab_size=draw.randint(40, 200),
        hidden_size=width,
        num_hidden_layers=layers,
        first_k_dense_replace=draw.randint(0, layers),
        num_attention_heads=kv * draw.randint(1, 4),
        num_key_value_heads=kv,
        head_dim=4 * draw.randint(1, 5),
        intermediate_size=draw.randint(1, 90),
        moe_intermediate_size=draw.randint(1, 40),
        n_routed_experts=draw.randint(2, 6),
        n_shared_experts=draw.randint(0, 2),
        attention_bias=draw.random() < 0.5,
        use_qk_norm=draw.random() < 0.5,
        sub_norm=draw.random() < 0.5,
        tie_word_embeddings=draw.random() < 0.5,
    )
    rank = draw.choice([None, draw.randint(1, width - 1)])
    with torch.device("meta"):
        model = GlmMoe(config, make_router=make_router)
    if rank is not None:
        factorised(model, rank)
    assert by_role(glm.weights(glm.sizes_of(config, experts_per_token=2, rank=rank))) == built_by_role(model)


@pytest.mark.parametrize("seed", range(100))
def test_a_gpt_has_the_parameters_that_were_counted(seed):
    draw = random.Random(seed)
    heads = draw.randint(1, 6)
    config = GptConfig(
        vocab_size=draw.randint(40, 200),
        hidden_size=heads * draw.randint(2, 12),
        num_hidden_layers=draw.randint(1, 5),
        num_attention_heads=heads,
        intermediate_size=draw.choice([None, draw.randint(1, 99)]),
        max_position_embeddings=draw.randint(4, 64),
        sub_norm=draw.random() < 0.5,
        tie_word_embeddings=draw.random() < 0.5,
    )
    rank = draw.choice([None, 1])
    with torch.device("meta"):
        model = Gpt(config)
    if rank is not None:
        factorised(model, rank)
    assert by_role(gpt.weights(gpt.sizes_of(config, rank=rank))) == built_by_role(model)


def test_presets_have_the_published_parameter_counts():
    sizes = glm.sizes_of(GlmMoeConfig.model_validate({"preset": "glm-4.6", "router": None}), experts_per_token=8)
    assert total(glm.weights(sizes)) == 352_797_814_784
    idle = 89 * (160 - 8) * 3 * 5120 * 1536  # experts that a token does not use
    assert active(glm.weights(sizes)) == 352_797_814_784 - idle
    assert total(gpt.weights(gpt.sizes_of(GptConfig(preset="gpt2")))) == 124_439_808


def test_flops_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = GptConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    sizes, length = gpt.sizes_of(config), 16
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter, torch.no_grad():
        model = Gpt(config)
        model.lm_head(model(torch.zeros(1, length, dtype=torch.long)).hidden_BSD)
    # torch counts every pair of positions, we count those that a causal model needs: (S + 1) / 2 of S
    pairs = 2 * 2 * sizes.layers * sizes.attention_width
    dense = forward_flops(gpt.weights(sizes), sizes, length) + pairs * (length - (length + 1) / 2)
    assert counter.get_total_flops() == length * dense
