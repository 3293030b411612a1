"""LayerNorm, the GELU MLP, and attention without rotary embedding against their formulas.

Shape suffixes: B batch, S sequence, D model width, N heads, h head width.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from penstock.moe_core.layers.attention import Attention
from penstock.moe_core.layers.mlp import GeluMLP
from penstock.moe_core.layers.norm import LayerNorm

M = TypeVar("M", bound=nn.Module)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def drawn(module: M) -> M:
    """With random weights and biases, fp64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.double()


def test_layer_norm_is_a_standardised_row_times_weight_plus_bias():
    norm, x = drawn(LayerNorm(8, 1e-3)), torch.randn(2, 3, 8, dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)


def test_layer_norm_of_bf16_has_wide_statistics_and_fp32_weights():
    norm, x = LayerNorm(256, 1e-5), (torch.randn(64, 256) + 100).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x), norm(x.float()).bfloat16())


def exact_gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def tanh_gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


@pytest.mark.parametrize(("approximate", "gelu"), [("none", exact_gelu), ("tanh", tanh_gelu)])
def test_gelu_mlp_is_two_products_with_biases(approximate, gelu):
    mlp: Any = drawn(GeluMLP(8, 12, approximate=approximate))
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    hidden = gelu(x @ mlp.up_proj.weight.T + mlp.up_proj.bias)
    torch.testing.assert_close(mlp(x), hidden @ mlp.down_proj.weight.T + mlp.down_proj.bias)


def test_sub_norm_of_a_gelu_mlp_precedes_the_down_projection():
    mlp: Any = drawn(GeluMLP(8, 12, approximate="none", sub_norm_epsilon=1e-3))
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    hidden = exact_gelu(x @ mlp.up_proj.weight.T + mlp.up_proj.bias)
    hidden = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-3).sqrt() * mlp.sub_norm.weight
    torch.testing.assert_close(mlp(x), hidden @ mlp.down_proj.weight.T + mlp.down_proj.bias)


def plain_attention(layer: Any, x_BSD: Tensor, sees: Tensor) -> Tensor:
    """One loop over heads; `sees`, broadcast to [B, S, S], says which position sees which."""
    out = []
    for head in range(layer.heads[0]):
        rows = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        query, key, value = (
            x_BSD @ each.weight[rows].T + each.bias[rows] for each in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        score = (query @ key.transpose(1, 2) / math.sqrt(layer.head_dim)).where(sees, -math.inf)
        out.append(score.softmax(-1) @ value)
    return torch.cat(out, dim=-1) @ layer.o_proj.weight.T + layer.o_proj.bias


@pytest.mark.parametrize("causal", [True, False])
def test_attention_without_rotary_embedding_sees_the_past_or_everything(causal):
    sizes = {"layer": 0, "hidden_size": 12, "heads": 3, "key_value_heads": 3, "head_dim": 4}
    layer = drawn(Attention(**sizes, bias=True, output_bias=True, causal=causal))
    x_BSD, every_SS = torch.randn(2, 5, 12, dtype=torch.float64), torch.ones(5, 5, dtype=torch.bool)
    sees_SS = every_SS.tril() if causal else every_SS
    torch.testing.assert_close(layer(x_BSD, None), plain_attention(layer, x_BSD, sees_SS))
    real_BSS = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)[:, None] & sees_SS
    given = layer(x_BSD, None, real_BSS[:, None])
    torch.testing.assert_close(given, plain_attention(layer, x_BSD, real_BSS))
