"""Tiny models of every family that the tests know, and a second way to compute what their routers choose.

Shape suffixes: T tokens, K experts a token, E experts, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from penstock_hf_models.build import hf_model
from torch import Tensor, nn

VOCABULARY = 96
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
LATENT = {
    **SIZES,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
LOCAL = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}

DENSE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": SIZES,
    "gemma2": {**SIZES, "head_dim": 8},  # caps its logits
    "granite": {**SIZES, "logits_scaling": 8.0},
    "cohere": {**SIZES, "logit_scale": 0.25},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
    },
    "bert": {k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": LOCAL,
    "olmoe": {**SIZES, "num_experts": 8, "num_experts_per_tok": 3},
    "qwen2_moe": {
        **SIZES,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {**SIZES, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "deepseek_v2": {**LATENT, "topk_method": "group_limited_greedy"},
    "deepseek_v3": LATENT,
    "glm4_moe": {
        **SIZES,
        "head_dim": 8,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    },
    "gpt_oss": {**LOCAL, "head_dim": 8, "sliding_window": 16},
    "phimoe": LOCAL,
    "jetmoe": {**LOCAL, "kv_channels": 8},
    "granitemoe": LOCAL,
    "llama4_text": {**LOCAL, "num_experts_per_tok": 1, "head_dim": 8, "intermediate_size_mlp": 32},
}


def build(family: str, **more: Any) -> Any:
    """A model whose routers are decided: every parameter is random, biases and gates that begin at zero too."""
    torch.manual_seed(0)
    model = hf_model(model_type=family, settings={**DENSE, **MIXTURES}[family], vocab_size=VOCABULARY, **more)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for site in model.routers.values():
            if site.e_score_correction_bias is not None:
                site.e_score_correction_bias.add_(torch.randn(site.experts) * 0.1)
    return model.eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


def expected_experts(family: str, router: nn.Module, hidden: Tensor, k: int) -> Tensor:
    """The experts [T, K], sorted by number, that the family's paper chooses for the hidden states it was given."""
    hidden_TD = hidden.reshape(-1, hidden.shape[-1]).float()
    weight_ED = next(each for each in router.parameters() if each.dim() == 2)
    logits_TE = hidden_TD @ weight_ED.T
    score_TE = ORACLES.get(family, lambda logits, _router: logits)(logits_TE, router)
    return score_TE.argsort(dim=-1, descending=True)[:, :k].sort(dim=-1).values


def _biased(logits_TE: Tensor, router: Any) -> Tensor:
    return logits_TE + router.bias


def _corrected(logits_TE: Tensor, router: Any) -> Tensor:
    return 1 / (1 + torch.exp(-logits_TE)) + router.e_score_correction_bias


def _best_groups(score_TE: Tensor, of_group: Callable[[Tensor], Tensor]) -> Tensor:
    """Only the experts of the best 2 of 4 groups may be chosen."""
    score_TGE = score_TE.view(len(score_TE), 4, -1)
    rank_TG = of_group(score_TGE).argsort(dim=-1, descending=True).argsort(dim=-1)
    return score_TGE.masked_fill(rank_TG.unsqueeze(-1) >= 2, -torch.inf).flatten(1)


ORACLES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "gpt_oss": _biased,
    "glm4_moe": _corrected,
    "deepseek_v2": lambda logits, _: _best_groups(logits, lambda group: group.amax(-1)),
    "deepseek_v3": lambda logits, router: _best_groups(
        _corrected(logits, router), lambda group: group.sort(-1).values[..., -2:].sum(-1)
    ),
}
