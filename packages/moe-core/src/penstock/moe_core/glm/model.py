"""The GLM-4.x mixture-of-experts language model.

Routing decisions are returned, not stored: a forward pass yields the hidden states and the `Routing` of each layer, so
nothing is counted twice under activation checkpointing and a loss or a recorder reads what it needs.

Shape suffixes: B batch, S sequence, T = B*S tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import (
    Inputs,
    ModelOutput,
    ParameterRole,
    Quantizer,
    Router,
    RouterFactory,
    Routing,
    SiteQuantizer,
    StoragePlan,
)
from penstock.hooks.problems import ProblemError
from penstock.moe_core.glm import hub_config, huggingface, step
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.decoding import described
from penstock.moe_core.glm.layouts import RouterRule, layout_of
from penstock.moe_core.glm.pretrained import load_pretrained
from penstock.moe_core.glm.translation import GATE, absent_parts, translated_config, translated_state
from penstock.moe_core.hub.export import RANK
from penstock.moe_core.hub.tensors import check_names, check_one_tensor
from penstock.moe_core.layers.attention import Attention, KeyValueCache
from penstock.moe_core.layers.embedding import Embedding
from penstock.moe_core.layers.experts import Experts
from penstock.moe_core.layers.head import Head
from penstock.moe_core.layers.language_model import CachedHeads, CausalModel
from penstock.moe_core.layers.mlp import SwiGLU
from penstock.moe_core.layers.norm import RMSNorm
from penstock.moe_core.layers.positions import known_real, positions
from penstock.moe_core.layers.rope import rotary_table
from penstock.moe_core.layers.routed_rows import RoutedRows
from penstock.moe_core.layers.site import (
    load_own_state,
    own_state,
    unpublished,
)
from penstock.moe_core.layers.slot_decoder import ModelSlots

# The fields of `Inputs` that the model reads, besides the tokens.
READS = ("real_BS", "document_BS", "position_BS", "expert_BSK")


class MoE(nn.Module):
    """Routed experts plus the shared expert, which sees every token unweighted."""

    def __init__(self, config: GlmMoeConfig, index: int, router: Router) -> None:
        super().__init__()
        self.index = index
        self.gate = router
        sizes = (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
        self.experts = Experts(*sizes, config.experts_backend, sub_norm_epsilon=config.sub_norm_epsilon)
        shared = config.n_shared_experts * config.moe_intermediate_size
        norm = config.sub_norm_epsilon
        self.shared_experts = SwiGLU(config.hidden_size, shared, sub_norm_epsilon=norm) if shared else None

    def forward(self, x_BSD: Tensor, rows: RoutedRows) -> tuple[Tensor, Routing]:
        out_BSD, routing = rows.mixture(self.index, self.gate, self.experts, x_BSD)
        return out_BSD if self.shared_experts is None else out_BSD + self.shared_experts(x_BSD), routing


class Layer(nn.Module):
    """Pre-norm attention, then a pre-norm dense MLP (no router) or a mixture of experts."""

    def __init__(self, config: GlmMoeConfig, index: int, router: Router | None) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(
            layer=index,
            hidden_size=config.hidden_size,
            heads=config.num_attention_heads,
            key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            bias=config.attention_bias,
            qk_norm_epsilon=config.rms_norm_eps if config.use_qk_norm else None,
            sub_norm_epsilon=config.sub_norm_epsilon,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = (
            SwiGLU(config.hidden_size, config.intermediate_size, sub_norm_epsilon=config.sub_norm_epsilon)
            if router is None
            else MoE(config, index, router)
        )

    def forward(
        self,
        x_BSD: Tensor,
        rows: RoutedRows,
        rotary: tuple[Tensor, Tensor],
        visible: Tensor | None,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, Routing | None]:
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), rotary, visible, cache)
        normalised_BSD = self.post_attention_layernorm(x_BSD)
        if isinstance(self.mlp, MoE):
            out_BSD, routing = self.mlp(normalised_BSD, rows)
            return x_BSD + out_BSD, routing
        return x_BSD + self.mlp(normalised_BSD), None


class GlmMoe(CausalModel):
    """A `LanguageModel` (see `penstock.hooks.contracts`).

    `make_router(layer, hidden_size=D, experts=E)` makes each mixture-of-experts layer's router. Parameters are fp32;
    `compute_dtype` is what the layers compute in. Weights are drawn from the global torch generator. `quantizer` is a
    quantizer for the parameters of its roles, or a plan with one per role.
    """

    def __init__(
        self,
        config: GlmMoeConfig,
        *,
        make_router: RouterFactory,
        quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None,
    ) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("vocab_size is missing: set it to the tokenizer's vocabulary size")
        self.config: GlmMoeConfig = config
        self.vocabulary_size = config.vocab_size
        self.compute_dtype: torch.dtype = torch.float32
        self.kept_tensors: dict[str, Tensor] = {}  # of prediction layers: neither parameters nor buffers, never cast
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        routers = {
            index: make_router(index, hidden_size=config.hidden_size, experts=config.n_routed_experts)
            for index in config.expert_layers
        }
        self.layers = nn.ModuleList(
            Layer(config, index, routers.get(index)) for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Head(config.hidden_size, config.vocab_size)
        self.complete(quantizer)

    @property
    def routers(self) -> Mapping[int, Router]:
        return {index: layer.mlp.gate for index, layer in enumerate(self.layers) if isinstance(layer.mlp, MoE)}

    def forward(self, inputs: Inputs | Tensor, *, cache: KeyValueCache | None = None) -> ModelOutput:
        """Reads padding on either side, documents, positions and given experts; `document_BS` only without a cache."""
        inputs = Inputs.of(inputs)
        inputs.require_only(type(self).__name__, *READS)
        position, visible = positions(inputs, cache)
        rows = RoutedRows.of(inputs, self.routers)
        rotary = rotary_table(position, self.config.rotary_dim, self.config.rope_theta)
        x_BSD = self.embed_tokens(inputs.token_BS).to(self.compute_dtype)
        routings: dict[int, Routing] = {}
        for index, layer in enumerate(self.layers):
            x_BSD, routing = layer(x_BSD, rows, rotary, visible, cache)
            if routing is not None:
                routings[index] = routing
        if cache is not None:
            cache.advance(inputs.token_BS.shape[1], known_real(inputs, cache))
        return ModelOutput(self.norm(x_BSD), routings)

    @property
    def cached_heads(self) -> CachedHeads:
        return CachedHeads(self.config.num_hidden_layers, self.config.num_key_value_heads, self.config.head_dim)

    @property
    def most_positions(self) -> int:
        return self.config.max_position_embeddings

    def slot_decoder(self, slots: int, positions: int) -> ModelSlots:
        """See `penstock.hooks.contracts.Slotted`."""
        cache = self.new_slots(slots, min(positions, self.most_positions))
        fast = None if step.obstacle(self) else step.GlmStep(self, cache.capacity)
        return ModelSlots(self, cache, fast)

    @staticmethod
    def role_of(name: str) -> ParameterRole:
        return _role(name)

    def export_config(self) -> dict[str, Any]:
        return hub_config.to_hub_config(
            self.config,
            self.routers,
            tied=self.tied,
            prediction_layers=huggingface.count_layers(self.kept_tensors),
            rank=self.embed_tokens.rank,
            plain=unpublished(self) is None,
        )

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        state = self.state_to_export(materialize=materialize)
        return huggingface.to_hub_names(state) | self.kept_tensors

    def published_config(self) -> dict[str, Any]:
        """Raises `ProblemError` if no transformers class computes the same, with what to change."""
        rules = self._router_rules()
        layout = layout_of(self.config, rules, prediction_layers=bool(self.kept_tensors))
        if layout == "glm4_moe":
            own = {name: value for name, value in self.export_config().items() if name != RANK}
            return own | hub_config.GLM4_MOE | {"tie_word_embeddings": self.published_tied}
        return translated_config(layout, self.config, rules[min(rules)], tied=self.published_tied)

    @torch.no_grad()
    def published_state(self) -> dict[str, Tensor]:
        rules = self._router_rules()
        layout = layout_of(self.config, rules, prediction_layers=bool(self.kept_tensors))
        state = self.export_state(materialize=True)
        for layer, router in self.routers.items():
            if (temperature := getattr(router, "temperature", 1.0)) != 1.0:
                state[f"model.layers.{layer}{GATE}"] = state[f"model.layers.{layer}{GATE}"] / temperature
        if layout == "glm4_moe":
            return state | absent_parts(self.config, state)
        return translated_state(layout, self.config, rules[min(rules)], state)

    def decoder_description(self) -> dict[str, Any]:
        """See `penstock.hooks.contracts.Decodable`."""
        return described(self, {layer: _rule(router) for layer, router in self.routers.items()})

    def _router_rules(self) -> dict[int, RouterRule]:
        """Raises `ProblemError` for a model that no transformers class computes, whatever its routers are."""
        if problems := self.obstacles():
            raise ProblemError(problems)
        return {layer: _rule(router) for layer, router in self.routers.items()}

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        state, beyond = huggingface.split_off_prediction_layers(state, self.config.num_hidden_layers)
        own = own_state(self)
        loaded = huggingface.from_hub_names(state, own)
        if self.tied and "embed_tokens.weight" in loaded:
            loaded.setdefault("lm_head.weight", loaded["embed_tokens.weight"])
        check_names(loaded, own)
        if self.tied:
            check_one_tensor(loaded["embed_tokens.weight"], loaded["lm_head.weight"])
        load_own_state(self, loaded)
        self.kept_tensors = beyond if self.config.mtp == "keep" else {}


def glm_moe(
    *, make_router: RouterFactory, quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None, **settings: Any
) -> GlmMoe:
    """The component's target: a `GlmMoe` from the fields of `GlmMoeConfig`, with the weights that it starts from."""
    model = GlmMoe(GlmMoeConfig(**settings), make_router=make_router, quantizer=quantizer)
    if model.config.pretrained is not None and not model.embed_tokens.weight.is_meta:
        load_pretrained(model, model.config.pretrained)
    return model


def _rule(router: Router) -> RouterRule:
    bias_E = router.e_score_correction_bias
    biased = bias_E is not None and not bias_E.is_meta and bool((bias_E != bias_E[0]).any())
    one_matrix = cast(nn.Module, router).state_dict().keys() <= {"weight", "e_score_correction_bias"}
    return RouterRule.of(router, score=getattr(router, "score_function", None) if one_matrix else None, biased=biased)


def _role(name: str) -> ParameterRole:
    match name.split("."):
        case ["embed_tokens", *_]:
            return ParameterRole.EMBEDDING
        case ["lm_head", *_]:
            return ParameterRole.HEAD
        case [*_, "gate", _]:
            return ParameterRole.ROUTER
        case [*_, "experts", "sub_norm"]:
            return ParameterRole.NORM
        case [*_, "experts", _]:
            return ParameterRole.EXPERT
        case [*_, "bias"]:
            return ParameterRole.BIAS
        case [*_, module, "weight"] if module.endswith("norm"):
            return ParameterRole.NORM
        case _:
            return ParameterRole.MATRIX
