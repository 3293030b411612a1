"""Models of transformers as the base that stays as it is: what a second pass over the same tokens leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import SIZES, VOCABULARY, tokens
from penstock_hf_models.build import hf_model
from torch import nn

from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.routers.topk import SoftmaxTopK

FOUR_LAYERS = {**SIZES, "num_hidden_layers": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,  # narrower than the texts, so that attention returns its weights too
    },
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "llama": FOUR_LAYERS,
    "gemma2": {**FOUR_LAYERS, "head_dim": 8},
    "gemma4_text": {  # later layers find keys and values of earlier ones in a dictionary
        **FOUR_LAYERS,
        "head_dim": 8,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}
SHARES = {"gemma4_text"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_pass_has_the_bits_of_the_first_and_leaves_out_what_is_frozen(family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model: Any = FrozenBase(
        hf_model(model_type=family, settings=FAMILIES[family], vocab_size=VOCABULARY),
        layers=[2],
        experts=4,
        make_router=lambda layer, **sizes: SoftmaxTopK(**sizes, k=2),
    )
    model.compute_dtype = dtype
    nn.init.normal_(model.adapters["2"].experts.down_proj)
    layers: Any = next(each for each in model.base.modules() if isinstance(each, nn.ModuleList))
    calls: list[None] = []
    layers[0].mlp.register_forward_hook(lambda *_: calls.append(None))
    token_BS = tokens(2, 12)

    def outcome() -> list[torch.Tensor]:
        model.zero_grad()
        result = model(token_BS)
        result.hidden_BSD.float().square().sum().backward()
        return [result.hidden_BSD, result.routings[2].score_TE, *(each.grad for each in model.adapters.parameters())]

    expected = outcome()
    with model.remembering():
        with torch.no_grad():
            model(token_BS)
        found = outcome()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert len(calls) == (3 if family in SHARES else 2)
