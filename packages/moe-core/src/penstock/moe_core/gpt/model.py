"""GPT-2: learned positions, LayerNorm before attention and before a GELU MLP, biases everywhere, a tied head.

Logits and gradients equal those of transformers' `GPT2LMHeadModel` without dropout; the model has no dropout.

Shape suffixes: B batch, S sequence, D model width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import (
    Inputs,
    ModelOutput,
    ParameterRole,
    Quantizer,
    Router,
    RouterFactory,
    SiteQuantizer,
    StoragePlan,
)
from penstock.hooks.problems import ProblemError
from penstock.moe_core.gpt import hub_config, huggingface
from penstock.moe_core.gpt.config import GptConfig
from penstock.moe_core.hub.export import RANK, SUB_NORM
from penstock.moe_core.hub.tensors import check_names, check_one_tensor, load_tensors, read_tensors
from penstock.moe_core.layers.attention import Attention, KeyValueCache
from penstock.moe_core.layers.embedding import Embedding
from penstock.moe_core.layers.head import Head
from penstock.moe_core.layers.language_model import CachedHeads, CausalModel
from penstock.moe_core.layers.mlp import GeluMLP
from penstock.moe_core.layers.norm import LayerNorm
from penstock.moe_core.layers.positions import known_real, positions, require_embedded, restarted
from penstock.moe_core.layers.site import load_own_state, own_state, unpublished

# The fields of `Inputs` that the model reads, besides the tokens.
READS = ("real_BS", "document_BS", "position_BS")


class Layer(nn.Module):
    """Attention, then an MLP, each after a norm of its own."""

    def __init__(self, config: GptConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.self_attn = Attention(
            layer=index,
            hidden_size=config.hidden_size,
            heads=config.num_attention_heads,
            key_value_heads=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            bias=True,
            output_bias=True,
            sub_norm_epsilon=config.sub_norm_epsilon,
        )
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = GeluMLP(
            config.hidden_size,
            config.mlp_size,
            approximate="tanh" if config.activation == "gelu-tanh" else "none",
            sub_norm_epsilon=config.sub_norm_epsilon,
        )

    def forward(self, x_BSD: Tensor, visible: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), None, visible, cache)
        return x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))


class Gpt(CausalModel):
    """A `LanguageModel` (see `penstock.hooks.contracts`) without routers.

    Parameters are fp32; `compute_dtype` is what the layers compute in. Weights are drawn from the global torch
    generator. `quantizer` is a quantizer for the parameters of its roles, or a plan with one per role; positions have
    the role of embeddings.
    """

    def __init__(self, config: GptConfig, *, quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("vocab_size is missing: set it to the tokenizer's vocabulary size")
        self.config: GptConfig = config
        self.vocabulary_size = config.vocab_size
        self.compute_dtype = torch.float32
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.lm_head = Head(config.hidden_size, config.vocab_size)
        self.complete(quantizer)

    @property
    def routers(self) -> Mapping[int, Router]:
        return {}

    @property
    def most_positions(self) -> int:
        return self.config.max_position_embeddings

    @staticmethod
    def role_of(name: str) -> ParameterRole:
        match name.split("."):
            case ["embed_tokens" | "embed_positions", *_]:
                return ParameterRole.EMBEDDING
            case ["lm_head", *_]:
                return ParameterRole.HEAD
            case [*_, module, "weight" | "bias" as kind] if module.endswith("norm"):
                return ParameterRole.NORM if kind == "weight" else ParameterRole.BIAS
            case [*_, "bias"]:
                return ParameterRole.BIAS
            case _:
                return ParameterRole.MATRIX

    def forward(self, inputs: Inputs | Tensor, *, cache: KeyValueCache | None = None) -> ModelOutput:
        """Reads padding on either side, documents, whose positions are counted from 0 each, and positions;
        `document_BS` only without a cache. Raises `ProblemError` for a position that has no embedding."""
        inputs = Inputs.of(inputs)
        inputs.require_only(type(self).__name__, *READS)
        position, visible = positions(inputs, cache)
        if inputs.document_BS is not None and inputs.position_BS is None and visible is not None:
            position = restarted(visible)
        require_embedded(inputs, position, self.most_positions, cached=0 if cache is None else cache.length)
        x_BSD = self.embed_tokens(inputs.token_BS) + self.embed_positions(position)
        x_BSD = x_BSD.to(self.compute_dtype)
        for layer in self.layers:
            x_BSD = layer(x_BSD, visible, cache)
        if cache is not None:
            cache.advance(inputs.token_BS.shape[1], known_real(inputs, cache))
        return ModelOutput(self.norm(x_BSD), {})

    @property
    def cached_heads(self) -> CachedHeads:
        return CachedHeads(
            self.config.num_hidden_layers,
            self.config.num_attention_heads,
            self.config.hidden_size // self.config.num_attention_heads,
        )

    def export_config(self) -> dict[str, Any]:
        """Of `GPT2LMHeadModel`, unless it could not read `export_state()`: with `sub_norm`, shared projections, a
        factorised embedding, or parts that sharing added."""
        ranks = [each.rank for each in (self.embed_tokens, self.embed_positions)]
        own = self.config.sub_norm or self._shared_projections() or unpublished(self) or any(ranks)
        return hub_config.to_hub_config(self.config, tied=self.tied, standard=not own, rank=ranks[0])

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        state = self.state_to_export(materialize=materialize)
        return huggingface.to_hub_names(state, frozenset() if materialize else self._shared_projections())

    def published_config(self) -> dict[str, Any]:
        """Raises `ProblemError` if transformers' class does not compute the same, with what to change."""
        if problems := self.obstacles() + ([SUB_NORM] if self.config.sub_norm else []):
            raise ProblemError(problems)
        own = {name: value for name, value in self.export_config().items() if name != RANK}
        return own | hub_config.GPT2 | {"tie_word_embeddings": self.published_tied}

    def published_state(self) -> dict[str, Tensor]:
        return self.export_state(materialize=True)

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        own = own_state(self)
        loaded = huggingface.from_hub_names(state)
        if self.tied and "embed_tokens.weight" in loaded:
            loaded.setdefault("lm_head.weight", loaded["embed_tokens.weight"])
        check_names(loaded, own)
        if self.tied:
            check_one_tensor(loaded["embed_tokens.weight"], loaded["lm_head.weight"], "wte.weight")
        load_own_state(self, loaded)

    def decoder_description(self) -> dict[str, Any]:
        """See `penstock.hooks.contracts.Decodable`."""
        return {"unsupported": "a gpt has LayerNorm and learned positions"}

    def _shared_projections(self) -> frozenset[str]:
        """The projections of attention that are one parameter with another."""
        every = dict(self.named_parameters(remove_duplicate=False))
        uses = Counter(map(id, every.values()))
        return frozenset(name for name, each in every.items() if ".self_attn." in name and uses[id(each)] > 1)


def gpt(
    *,
    make_router: RouterFactory | None = None,
    quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None,
    **settings: Any,
) -> Gpt:
    """The component's target: a `Gpt` from the fields of `GptConfig`, with the weights that it starts from.
    `make_router` is part of the contract of architectures and is never called."""
    model = Gpt(GptConfig(**settings), quantizer=quantizer)
    if model.config.pretrained is not None and not model.embed_tokens.weight.is_meta:
        load_tensors(model, read_tensors(model.config.pretrained), model.config.pretrained)
    return model
