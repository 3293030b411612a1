"""The BERT encoder, its head of masked-language modelling and its heads of tasks (arXiv 1810.04805).

Logits and gradients are those of transformers' `BertForMaskedLM`, `BertForSequenceClassification`,
`BertForTokenClassification` and `BertForQuestionAnswering`.

Shape suffixes: B batch, S sequence, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penstock.hooks.contracts import (
    Inputs,
    LossOutput,
    ModelOutput,
    ParameterRole,
    Prediction,
    Quantizer,
    Router,
    RouterFactory,
    SiteQuantizer,
    StoragePlan,
)
from penstock.hooks.problems import ProblemError
from penstock.moe_core.bert import hub_config, huggingface
from penstock.moe_core.bert.config import BertConfig
from penstock.moe_core.bert.pretrained import load_pretrained
from penstock.moe_core.hub.export import RANK
from penstock.moe_core.hub.tensors import check_names
from penstock.moe_core.layers.attention import Attention
from penstock.moe_core.layers.biased_head import BiasedHead
from penstock.moe_core.layers.embedding import Embedding
from penstock.moe_core.layers.head import Head
from penstock.moe_core.layers.language_model import SitedModel, fitting
from penstock.moe_core.layers.linear import Linear
from penstock.moe_core.layers.mlp import GeluMLP
from penstock.moe_core.layers.norm import LayerNorm
from penstock.moe_core.layers.positions import positions, require_embedded
from penstock.moe_core.layers.site import load_own_state, own_parameters, own_state, quantize, unpublished

# The fields of `Inputs` that the model reads, besides the tokens.
READS = ("real_BS", "position_BS", "type_BS")


class Layer(nn.Module):
    """Attention in both directions, then an MLP; each is added to its input, and the sum is normalised."""

    def __init__(self, config: BertConfig, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(
            layer=index,
            hidden_size=config.hidden_size,
            heads=config.num_attention_heads,
            key_value_heads=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            bias=True,
            output_bias=True,
            causal=False,
            dropout=config.dropout,
        )
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = GeluMLP(config.hidden_size, config.intermediate_size, approximate="none")
        self.mlp_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor, visible: Tensor | None) -> Tensor:
        x_BSD = self.attention_norm(x_BSD + self.dropout(self.self_attn(x_BSD, None, visible)))
        return self.mlp_norm(x_BSD + self.dropout(self.mlp(x_BSD)))


class MaskedHead(nn.Module):
    """What precedes the product with the embedding in the head of masked-language modelling."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x_D: Tensor) -> Tensor:
        return self.norm(F.gelu(self.transform(x_D)))


class TaskHead(Head):
    """A matrix [labels, D] with a bias. Its role is that of heads: a row is a label, and Muon and ternary weights leave
    it alone."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=True)


class Bert(SitedModel):
    """What the encoders of all heads have in common. Parameters are fp32; `compute_dtype` is what the layers compute
    in. Weights are drawn from the global torch generator. `quantizer` is a quantizer for the parameters of its roles,
    or a plan with one per role."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("vocab_size is missing: set it to the tokenizer's vocabulary size")
        self.config = config
        self.vocabulary_size = config.vocab_size
        self.compute_dtype: torch.dtype = torch.float32
        self.start_notes: tuple[str, ...] = ()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.embed_types = Embedding(config.type_vocab_size, config.hidden_size)
        self.embed_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws every matrix and embedding from N(0, initializer_range), as BERT does; biases are 0."""
        for _, parameter in own_parameters(self):
            if parameter.dim() >= 2:
                parameter.normal_(0.0, self.config.initializer_range)

    @property
    def routers(self) -> Mapping[int, Router]:
        return {}

    def forward(self, inputs: Inputs | Tensor) -> ModelOutput:
        """Reads padding on either side, positions and token types (None: all 0). Raises `ProblemError` for a position
        that has no embedding."""
        inputs = Inputs.of(inputs)
        inputs.require_only(type(self).__name__, *READS)
        type_BS = torch.zeros_like(inputs.token_BS) if inputs.type_BS is None else inputs.type_BS
        x_BSD = self.embed_tokens(inputs.token_BS) + self.embed_types(type_BS)
        position = positions(inputs).position
        require_embedded(inputs, position, self.config.max_position_embeddings)
        x_BSD = x_BSD + self.embed_positions(position)
        x_BSD = self.dropout(self.embed_norm(x_BSD.to(self.compute_dtype)))
        visible = _visible(inputs)
        for layer in self.layers:
            x_BSD = layer(x_BSD, visible)
        return ModelOutput(x_BSD, {})

    @staticmethod
    def role_of(name: str) -> ParameterRole:
        match name.split("."):
            case [*_, "projection", "weight"]:
                return ParameterRole.MATRIX
            case [*_, "bias"]:
                return ParameterRole.BIAS
            case [embedding, *_] if embedding in ("embed_tokens", "embed_positions", "embed_types"):
                return ParameterRole.EMBEDDING
            case ["lm_head" | "classifier" | "spans", *_]:
                return ParameterRole.HEAD
            case [*_, module, _] if module.endswith("norm"):
                return ParameterRole.NORM
            case _:
                return ParameterRole.MATRIX

    def export_config(self) -> dict[str, Any]:
        """Of transformers' class, unless it could not read `export_state()`: with a factorised embedding, or parts that
        sharing added."""
        ranks = [each.rank for each in (self.embed_tokens, self.embed_positions)]
        own = any(ranks) or unpublished(self) is not None
        return self._hub_config(tied=self.tied) | ({**hub_config.OWN, RANK: ranks[0]} if own else {})

    def _hub_config(self, *, tied: bool) -> dict[str, Any]:
        return hub_config.to_hub_config(self.config, tied=tied or self.config.head.task != Prediction.MASKED)

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        return huggingface.to_hub_names(self.state_to_export(materialize=materialize))

    def published_config(self) -> dict[str, Any]:
        """Raises `ProblemError` for a model that no transformers class computes, with what to change."""
        if problems := self.obstacles():
            raise ProblemError(problems)
        return self._hub_config(tied=self.published_tied)

    def published_state(self) -> dict[str, Tensor]:
        return self.export_state(materialize=True)

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        own = own_state(self)
        loaded = huggingface.from_hub_names(state, tied=self.tied)
        if self.tied and "embed_tokens.weight" in loaded:
            loaded.setdefault("lm_head.weight", loaded["embed_tokens.weight"])
        check_names(loaded, own)
        load_own_state(self, loaded)


class BertForMaskedLM(Bert):
    """A `MaskedLanguageModel` (see `penstock.hooks.contracts`)."""

    def __init__(self, config: BertConfig, quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None) -> None:
        super().__init__(config)
        self.masked_lm = MaskedHead(config)
        self.lm_head = BiasedHead(config.hidden_size, self.vocabulary_size)
        self.reset_parameters()
        if config.tie_word_embeddings:
            self.lm_head.weight = cast(nn.Parameter, self.embed_tokens.weight)
        quantize(self, fitting(StoragePlan.of(quantizer), tied=config.tie_word_embeddings))

    @property
    def tied(self) -> bool:
        return self.lm_head.weight is self.embed_tokens.weight

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32."""
        return self.lm_head(self.masked_lm(hidden_BSD)).float()

    def masked_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor) -> LossOutput:
        inputs = Inputs.of(inputs)
        output, counted_BS = self(inputs), inputs.counted(mask_BS)
        assert counted_BS is not None
        hidden_TD = self.masked_lm(output.hidden_BSD.flatten(0, 1))
        loss, nll_T = self.lm_head(hidden_TD, target_BS.flatten(), counted_BS.flatten())
        return LossOutput(loss, nll_T.view_as(target_BS), output.routings)


class BertForTask(Bert):
    """A `TaskModel` (see `penstock.hooks.contracts`). A classification reads the first token through the pooler; tags
    and spans read every token."""

    def __init__(self, config: BertConfig, quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None) -> None:
        super().__init__(config)
        self.labels = config.labels
        self.pooler = Linear(config.hidden_size, config.hidden_size, bias=True) if config.has_pooler else None
        head = TaskHead(config.hidden_size, config.labels)
        self.head_name = "spans" if config.head.task == Prediction.SPANS else "classifier"
        self.add_module(self.head_name, head)
        self.reset_parameters()
        quantize(self, StoragePlan.of(quantizer))

    def task_logits(self, inputs: Inputs | Tensor) -> Tensor:
        """fp32, [B, labels] for a classification, [B, S, labels] for tags and spans."""
        inputs = Inputs.of(inputs)
        hidden = self(inputs).hidden_BSD
        if self.pooler is not None:
            hidden = self.pooler(_first_real(hidden, inputs.real_BS)).tanh()
        return self.get_submodule(self.head_name)(self.dropout(hidden)).float()


def bert(
    *,
    make_router: RouterFactory | None = None,
    quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None,
    **settings: Any,
) -> BertForMaskedLM | BertForTask:
    """The component's target: an encoder from the fields of `BertConfig`, with the weights that it starts from.

    `make_router` is part of the contract of architectures and is never called: no layer has experts.
    """
    config = BertConfig(**settings)
    model = (BertForMaskedLM if config.head.task == Prediction.MASKED else BertForTask)(config, quantizer)
    if config.pretrained is not None and not model.embed_tokens.weight.is_meta:
        model.start_notes = load_pretrained(model, config.pretrained)
    return model


def _visible(inputs: Inputs) -> Tensor | None:
    """[B, 1, S, S], True where a position sees another; None: everywhere. Padding sees itself, because the softmax of
    a row that sees nothing is undefined."""
    if inputs.real_BS is None:
        return None
    itself_SS = torch.eye(inputs.real_BS.shape[1], dtype=torch.bool, device=inputs.real_BS.device)
    return inputs.real_BS[:, None, None, :] | itself_SS


def _first_real(hidden_BSD: Tensor, real_BS: Tensor | None) -> Tensor:
    """[B, D] of the first token that is no padding."""
    if real_BS is None:
        return hidden_BSD[:, 0]
    first_B = real_BS.long().argmax(dim=1)
    return hidden_BSD[torch.arange(len(first_B), device=first_B.device), first_B]
