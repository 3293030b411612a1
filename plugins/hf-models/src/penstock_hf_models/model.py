"""Models of transformers behind the contract `LanguageModel`, one class for each kind of prediction.

Shape suffixes: B batch, S sequence, T = B*S tokens, C tokens per chunk, D model width, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import ModelOutput as TransformersOutput

from penstock.hooks.architecture import promised_positions
from penstock.hooks.contracts import (
    Inputs,
    LossOutput,
    ModelOutput,
    ParameterLayout,
    ParameterRole,
    Router,
    Routing,
)
from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.frozen_base.adapters import standing_in
from penstock.moe_core.layers import generation
from penstock.moe_core.layers.loss import NO_TARGET, counted_rows
from penstock.moe_core.layers.positions import known_real, positions
from penstock_hf_models import weights
from penstock_hf_models.activations import use_fused_gelu
from penstock_hf_models.attention import use_blocks
from penstock_hf_models.layouts import parameter_layout
from penstock_hf_models.roles import parameter_roles
from penstock_hf_models.routing import collecting, observed, one_a_layer, router_sites, warn_of_constant_weights

CHUNK_LOGITS = 2**24  # logits that a loss holds at once, 64 MiB in fp32; more are computed again in the backward

# The argument of transformers that each field of `Inputs` becomes; a model whose forward does not take it refuses the
# field. Documents have none: what keeps them apart differs from family to family.
ARGUMENTS = {"real_BS": "attention_mask", "position_BS": "position_ids", "type_BS": "token_type_ids"}


@dataclass(slots=True)
class Cache:
    """The keys and values of a family (`past`), how many positions they hold, and which of those are padding."""

    past: Any
    length: int = 0
    real_BC: Tensor | None = None


class RewindableCache(Cache):
    """Of a family whose layers keep every position, so that the newest can be forgotten."""

    def rewind(self, length: int) -> None:
        """See `penstock.hooks.contracts.RewindableCache`."""
        self.past.crop(length - self.length)
        self.length = length
        self.real_BC = None if self.real_BC is None else self.real_BC[:, :length]


class HfModel(nn.Module):
    """The common part of models of every task: weights, roles, routers, precision.

    `network` is the transformers model. Parameters are fp32; `compute_dtype` is what its layers compute in (autocast).
    `routers` are those that transformers declares, by layer; empty for dense models and for the few families whose
    router does not say what it chose (Switch, NLLB-MoE, DBRX).
    """

    predicts = ""
    offers = ""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self.vocabulary_size = int(cast(nn.Embedding, network.get_input_embeddings()).weight.shape[0])
        self.compute_dtype: torch.dtype = torch.float32
        self._width = int(getattr(network.config.get_text_config(), "hidden_size", 0))
        self._sites = observed(one_a_layer(router_sites(network)), self._width)
        self._head_is_plain: bool | None = None
        use_blocks(network)
        use_fused_gelu(network)
        self.train()

    @property
    def routers(self) -> Mapping[int, Router]:
        return {site.layer: cast(Router, site) for site in self._sites}

    def blocks(self) -> Sequence[nn.Module]:
        """See `penstock.hooks.contracts.Layered`: the layers that transformers itself checkpoints; none for a family
        whose layers it does not name."""
        return [module for module in self.network.modules() if isinstance(module, GradientCheckpointingLayer)]

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32, or fp64 of hidden states in fp64, by the model's own head, including its bias, scale and cap,
        if any."""
        hidden_BSD, shape = hidden_BSD.reshape(1, -1, hidden_BSD.shape[-1]), hidden_BSD.shape
        with self._precision(), _returning(body(self.network), hidden_BSD):
            output = self.network(input_ids=_zeros(hidden_BSD))
        return _at_least_single(output.logits).view(*shape[:-1], -1)

    @property
    def head_weight_VD(self) -> Tensor | None:
        """The head, where logits are its product with the hidden states and nothing else, which is tried once; None
        where they are more (a bias, a scale, a cap), or cannot be tried because the weights are on meta."""
        head: Any = self.network.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.weight.is_meta:
            return None
        if self._head_is_plain is None:
            self._head_is_plain = self._logits_are_products(head.weight)
        return head.weight if self._head_is_plain else None

    @torch.no_grad()
    def _logits_are_products(self, weight_VD: Tensor) -> bool:
        hidden_TD = torch.linspace(-30, 30, 2 * weight_VD.shape[1], device=weight_VD.device).view(2, -1)
        expected_TV = hidden_TD @ weight_VD.T
        with torch.autocast(weight_VD.device.type, enabled=False):
            found_TV = self.logits(hidden_TD)
        gap = float((found_TV - expected_TV).abs().max())
        return found_TV.shape == expected_TV.shape and gap <= 1e-5 * float(expected_TV.abs().max())

    def forward(self, inputs: Inputs | Tensor, *, cache: Cache | None = None) -> ModelOutput:
        """Reads padding, positions and token types where the family does. `cache` comes from `new_cache`.

        Routers of transformers see padding too. Since no readable router drops tokens, this does not affect real
        tokens; padding rows are returned as unrouted and are not counted.
        """
        inputs = Inputs.of(inputs)
        given = self._arguments(inputs, cache)
        with self._precision(), collecting(self._sites) as routings:
            output = body(self.network)(input_ids=inputs.token_BS, **given)
        if cache is not None:
            cache.real_BC = known_real(inputs, cache)
            cache.length += inputs.token_BS.shape[1]
        return ModelOutput(output[0], _of_real_tokens(routings, inputs))

    def _arguments(self, inputs: Inputs, cache: Cache | None) -> dict[str, Any]:
        takes = inspect.signature(body(self.network).forward).parameters
        reads = [field for field, argument in ARGUMENTS.items() if argument in takes]
        inputs.require_only(f"a {self.network.config.model_type} model of transformers", *reads)
        given: dict[str, Any] = {"use_cache": cache is not None} if "use_cache" in takes else {}
        if cache is not None:
            given["past_key_values"] = cache.past
        real_BC = known_real(inputs, cache)
        if real_BC is not None:
            given["attention_mask"] = real_BC.long()
        if "position_ids" in takes and (real_BC is not None or inputs.position_BS is not None):
            given["position_ids"] = positions(inputs, cache).position
        if inputs.type_BS is not None:
            given["token_type_ids"] = inputs.type_BS
        return given

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        self._refuse("next_token_loss")

    def new_cache(self, batch: int, capacity: int) -> Cache | None:
        """None: the model keeps nothing between passes."""
        return None

    def generate(self, inputs: Inputs | Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        self._refuse("generate")

    def parameter_roles(self) -> dict[str, ParameterRole]:
        return parameter_roles(self, self.network)

    def parameter_layout(self) -> dict[str, ParameterLayout]:
        """Training asks for it, so it also warns of routers that training cannot teach."""
        warn_of_constant_weights(self._sites, self._width)
        return parameter_layout(self)

    def export_config(self) -> dict[str, Any]:
        """The `config.json` that transformers writes, with tying as it is in the weights."""
        config = json.loads(self.network.config.to_json_string(use_diff=True))
        tied = weights.head_is_tied(self.network)
        architecture = {"architectures": [type(self.network).__name__], "tie_word_embeddings": tied}
        sizes = {"vocab_size": self.vocabulary_size, "eos_token_id": self.network.config.eos_token_id}
        return {**config, **architecture, **sizes}

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        """Under the names of the hub; `materialize` changes nothing, because quantizers are not supported."""
        return weights.export_state(self.network)

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        weights.load_state(self.network, state)

    def _precision(self) -> AbstractContextManager[Any]:
        device, casts = next(self.parameters()).device.type, self.compute_dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(device, dtype=self.compute_dtype if casts else None, enabled=casts)

    def _token_loss(self, output: ModelOutput, target_BS: Tensor, mask_BS: Tensor | None) -> LossOutput:
        """Sum of the nats of tokens in the mask. Logits exist only for one chunk of tokens at a time."""
        mask_T = None if mask_BS is None else mask_BS.flatten()
        hidden_TD, target_T = counted_rows(output.hidden_BSD.flatten(0, 1), target_BS.flatten(), mask_T)
        chunks = list(
            zip(
                *(each.split(max(1, CHUNK_LOGITS // self.vocabulary_size)) for each in (hidden_TD, target_T)),
                strict=True,
            )
        )
        parts = [self._nats(*chunk) for chunk in chunks] if len(chunks) == 1 else [self._nats_again(*c) for c in chunks]
        nll_BS = torch.cat(parts).view_as(target_BS)
        if mask_BS is not None:
            nll_BS = torch.where(mask_BS, nll_BS, 0.0)
        return LossOutput(nll_BS.sum(), nll_BS.detach(), output.routings)

    def _nats(self, hidden_CD: Tensor, target_C: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(hidden_CD), target_C, reduction="none", ignore_index=NO_TARGET)

    def _nats_again(self, hidden_CD: Tensor, target_C: Tensor) -> Any:
        return checkpoint(self._nats, hidden_CD, target_C, use_reentrant=False)

    def _refuse(self, asked: str) -> NoReturn:
        what = f"a {self.network.config.model_type} model predicts {self.predicts}, so it does not support {asked}"
        raise ProblemError(
            Problem("wrong-task", what, "model.task", f"{self.offers}, or train a model of `task: causal`")
        )


class CausalModel(HfModel):
    """A `LanguageModel`: each token is predicted from those before it."""

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        inputs = Inputs.of(inputs)
        return self._token_loss(self(inputs), target_BS, inputs.counted(mask_BS))

    def new_cache(self, batch: int, capacity: int) -> Cache | None:
        """An empty, growing key/value cache; None for families with another kind of state."""
        takes = inspect.signature(body(self.network).forward).parameters
        if "past_key_values" not in takes:
            return None
        past = DynamicCache(config=self.network.config)
        keeps_all = all(type(layer) is DynamicLayer for layer in past.layers)
        return RewindableCache(past) if keeps_all else Cache(past)

    def generate(self, inputs: Inputs | Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        """[B, S + tokens]; see `penstock.moe_core.layers.generation.generate`."""
        most = promised_positions(self.export_config())
        return generation.generate(self, inputs, tokens=tokens, positions=most, **sampling)


class MaskedModel(HfModel):
    """An encoder: tokens that were hidden are predicted from both sides. Trains by `masked_token_loss`."""

    predicts, offers = "hidden tokens from both sides", "call masked_token_loss(inputs, target_BS, mask_BS)"

    def masked_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor) -> LossOutput:
        """Loss of `target_BS` at the real positions where `mask_BS` is True, and `inputs` hides them."""
        inputs = Inputs.of(inputs)
        return self._token_loss(self(inputs), target_BS, inputs.counted(mask_BS))


class SequenceToSequenceModel(HfModel):
    """An encoder-decoder: a text is predicted from another, which is `Inputs.encoder`. Trains by `sequence_loss`."""

    predicts, offers = "one text from another", "give `Inputs.encoder`, or call sequence_loss(source, target_BS)"

    def forward(self, inputs: Inputs | Tensor, *, cache: Cache | None = None) -> ModelOutput:
        """The decoder's hidden states for what follows each of `inputs.token_BS`, given all of `inputs.encoder`."""
        inputs = Inputs.of(inputs)
        source = inputs.encoder
        if source is None:
            self._refuse("a pass without `Inputs.encoder`")
        reader = f"a {self.network.config.model_type} model of transformers"
        inputs.require_only(reader, "encoder", "real_BS")
        source.require_only(reader, "real_BS")
        encoder: Any = self.network.get_encoder()
        with self._precision(), collecting(self._sites) as routings:
            read_BSD = encoder(input_ids=source.token_BS, attention_mask=_mask(source))[0]
            output = body(self.network)(
                input_ids=inputs.token_BS,
                attention_mask=_mask(inputs),
                encoder_hidden_states=read_BSD,
                encoder_attention_mask=_mask(source),
                use_cache=False,
            )
        return ModelOutput(output[0], routings)

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32."""
        hidden_BSD, shape = hidden_BSD.reshape(1, -1, hidden_BSD.shape[-1]), hidden_BSD.shape
        encoder: Any = self.network.get_encoder()
        with self._precision(), _returning(encoder, hidden_BSD), _returning(body(self.network), hidden_BSD):
            output = self.network(input_ids=_zeros(hidden_BSD), decoder_input_ids=_zeros(hidden_BSD), use_cache=False)
        return _at_least_single(output.logits).view(*shape[:-1], -1)

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        """Loss of `target_BS` given the decoder's earlier tokens and `inputs.encoder`."""
        inputs = Inputs.of(inputs)
        return self._token_loss(self(inputs), target_BS, inputs.counted(mask_BS))

    def sequence_loss(self, source: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        """Loss of `target_BS` given the source and the target's earlier tokens, where `mask_BS` is True (None: all)."""
        start_B1 = target_BS.new_full((len(target_BS), 1), self._start_token())
        decoder_BS = torch.cat((start_B1, target_BS[:, :-1]), dim=1)
        return self.next_token_loss(Inputs(decoder_BS, encoder=Inputs.of(source)), target_BS, mask_BS)

    @torch.no_grad()
    def generate(self, inputs: Inputs | Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        """The decoder's tokens after its start token, at most `tokens` of them, given `inputs` as the source, by
        transformers' own `generate`."""
        source = Inputs.of(inputs)
        source.require_only("generation", "real_BS")
        was_training, network = self.training, cast(Any, self.network)
        self.eval()
        try:
            mask_BS = _mask(source)
            return network.generate(source.token_BS, attention_mask=mask_BS, max_new_tokens=tokens, **sampling)[:, 1:]
        finally:
            self.train(was_training)

    def _start_token(self) -> int:
        start = self.network.config.decoder_start_token_id
        if start is None:
            what = "the config does not say which token the decoder starts with"
            raise ProblemError(Problem("missing-field", what, "model.settings", "set decoder_start_token_id"))
        return start


@dataclass
class _Hidden(TransformersOutput):
    """The return value of a model's body for known hidden states."""

    last_hidden_state: Any = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    cross_attentions: Any = None
    router_logits: Any = None
    cache_params: Any = None


def body(network: PreTrainedModel) -> PreTrainedModel:
    """The model right below the head, whose last hidden states the head reads."""
    below = (network.get_decoder(), network.base_model, *network.children())
    return next(each for each in below if isinstance(each, PreTrainedModel) and each is not network)


def _returning(module: nn.Module, hidden_BSD: Tensor) -> AbstractContextManager[None]:
    """Makes a module return these hidden states for any input, so that only the layers above it compute."""
    return standing_in(module, lambda *_args, **_kwargs: _Hidden(last_hidden_state=hidden_BSD))


def _at_least_single(logits_BSV: Tensor) -> Tensor:
    return logits_BSV.to(torch.promote_types(torch.float32, logits_BSV.dtype))


def _zeros(hidden_BSD: Tensor) -> Tensor:
    """As many tokens as there are hidden states."""
    return hidden_BSD.new_zeros(hidden_BSD.shape[:2], dtype=torch.long)


def _mask(inputs: Inputs) -> Tensor | None:
    return None if inputs.real_BS is None else inputs.real_BS.long()


def _of_real_tokens(routings: Mapping[int, Routing], inputs: Inputs) -> Mapping[int, Routing]:
    """Routings without kept slots in padding rows."""
    if inputs.real_BS is None:
        return routings
    real_T1 = inputs.real_BS.reshape(-1, 1)
    return {
        layer: replace(
            routing,
            weight_TK=routing.weight_TK.where(real_T1, 0.0),
            logits_TE=routing.logits_TE.where(real_T1, 0.0),
            score_TE=routing.score_TE.where(real_T1, 0.0),
            kept_TK=real_T1.expand_as(routing.expert_TK),
        )
        for layer, routing in routings.items()
    }
