"""Random models of transformers, seen through the methods of `LanguageModel` that an export uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, LlamaConfig, LlamaForCausalLM

VOCABULARY = 300
TOKEN_BS = torch.arange(12).view(2, 6) * 7 % VOCABULARY


class HubGlm:
    """A GLM mixture of experts.

    In memory transformers fuses the experts; `export_state` gives the names of hub files, one tensor an expert.
    """

    vocabulary_size = VOCABULARY

    def __init__(self, *, tied: bool = False) -> None:
        torch.manual_seed(0)
        self.network: Any = Glm4MoeForCausalLM(
            Glm4MoeConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                intermediate_size=48,
                moe_intermediate_size=16,
                num_hidden_layers=3,
                first_k_dense_replace=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,  # pyright: ignore[reportCallIssue]
                n_routed_experts=4,
                n_shared_experts=1,
                num_experts_per_tok=2,
                n_group=1,
                topk_group=1,
                routed_scaling_factor=2.5,
                use_qk_norm=True,
                attention_bias=True,
                max_position_embeddings=64,
                num_nextn_predict_layers=0,  # pyright: ignore[reportCallIssue]
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
                tie_word_embeddings=tied,
                eos_token_id=[0],
                pad_token_id=0,
                initializer_range=0.2,
            )
        ).eval()
        for name, bias in self.network.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias.copy_(torch.tensor([0.1001, -0.2003, 0.0507, 0.0]))

    def export_config(self) -> dict[str, Any]:
        return {**self.network.config.to_dict(), "architectures": ["Glm4MoeForCausalLM"]}

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        assert materialize, "an export is for software that knows nothing of our quantizers"
        state: dict[str, Tensor] = {}
        for name, tensor in self.network.state_dict().items():
            if ".experts." not in name:
                state[name] = tensor
                continue
            folder, _, last = name.rpartition(".")
            for expert, matrix in enumerate(tensor.unbind()):
                if last == "gate_up_proj":
                    gate, up = matrix.chunk(2)
                    state |= {f"{folder}.{expert}.gate_proj.weight": gate, f"{folder}.{expert}.up_proj.weight": up}
                else:
                    state[f"{folder}.{expert}.down_proj.weight"] = matrix
        return state

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.network(TOKEN_BS).logits


class HubLlama:
    """A dense Llama."""

    vocabulary_size = VOCABULARY

    def __init__(self, *, tied: bool = False) -> None:
        torch.manual_seed(0)
        self.network: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=tied,
                eos_token_id=0,
                bos_token_id=0,
                initializer_range=0.2,
            )
        ).eval()

    def export_config(self) -> dict[str, Any]:
        return {**self.network.config.to_dict(), "architectures": ["LlamaForCausalLM"]}

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        return dict(self.network.state_dict())

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.network(TOKEN_BS).logits
