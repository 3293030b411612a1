"""What the models of this package do alike, whatever their layers are.

Shape suffixes: B batch, S sequence, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import (
    Inputs,
    LossOutput,
    ParameterLayout,
    ParameterRole,
    Quantizer,
    SiteQuantizer,
    StoragePlan,
)
from penstock.hooks.problems import Problem
from penstock.moe_core.hub.export import ROUNDED_INPUTS, not_published
from penstock.moe_core.layers import generation
from penstock.moe_core.layers.attention import KeyValueCache
from penstock.moe_core.layers.embedding import Embedding
from penstock.moe_core.layers.factorised import without_projections
from penstock.moe_core.layers.head import Head
from penstock.moe_core.layers.site import (
    NamedSite,
    layouts_in,
    own_parameters,
    own_state,
    quantize,
    sites_of,
    unpublished,
)
from penstock.moe_core.layers.slot_decoder import ModelSlots
from penstock.moe_core.layers.slots import SlotCache


class CachedHeads(NamedTuple):
    """What attention keeps of each position."""

    layers: int
    key_value_heads: int
    head_dim: int


class SitedModel(nn.Module):
    """A model whose parameters have roles by name, layouts and weight sites."""

    layers: nn.ModuleList

    def blocks(self) -> Sequence[nn.Module]:
        """See `penstock.hooks.contracts.Layered`."""
        return list(self.layers)

    @staticmethod
    @abstractmethod
    def role_of(name: str) -> ParameterRole:
        """The role of a parameter of the model's own."""

    @property
    def tied(self) -> bool:
        """Whether head and embedding are one parameter."""
        return False

    @property
    def published_tied(self) -> bool:
        """Whether they are one matrix in the layout of other software: of a factorised embedding, each is multiplied
        with a projection of its own."""
        head: Any = getattr(self, "lm_head", None)
        return self.tied and head.projection is None

    def state_to_export(self, *, materialize: bool) -> dict[str, Tensor]:
        """The tensors of a checkpoint under the model's own names, without a head that is the embedding. `materialize`
        gives them as the forward pass computes with them, and multiplies factors."""
        state = own_state(self)
        if materialize:
            with torch.no_grad():
                state |= {name: site.effective() for name, site in sites_of(self).items()}
                state = without_projections(self, state)
        if self.published_tied if materialize else self.tied:
            del state["lm_head.weight"]
        return state

    def obstacles(self) -> list[Problem]:
        """Why no class of transformers computes what the model does, whatever its layers are: it rounds activations, or
        sharing added parts."""
        rounded = any(site.site.reads for site in sites_of(self).values())
        added = unpublished(self)
        return [*([ROUNDED_INPUTS] if rounded else []), *([] if added is None else [not_published(added)])]

    def parameter_roles(self) -> dict[str, ParameterRole]:
        """A parameter with a site has the site's role; what sites added has the role of norms, unless the code that
        added it says otherwise."""
        roles = dict.fromkeys((name for name, _ in self.named_parameters()), ParameterRole.NORM)
        roles |= {name: self.role_of(name) for name, _ in own_parameters(self)}
        return roles | {name: site.role for name, site in sites_of(self).items() if name in roles}

    def parameter_layout(self) -> dict[str, ParameterLayout]:
        return layouts_in(self)

    def weight_sites(self) -> dict[str, NamedSite]:
        return sites_of(self)

    def parameters_by_role(self) -> dict[ParameterRole, dict[str, nn.Parameter]]:
        """Name to parameter under each role: what optimizers take."""
        groups: dict[ParameterRole, dict[str, nn.Parameter]] = {}
        roles = self.parameter_roles()
        for name, parameter in self.named_parameters():
            groups.setdefault(roles[name], {})[name] = parameter
        return groups


class CausalModel(SitedModel):
    """A `SitedModel` with an embedding and a head that predicts the next token. Parameters are fp32; `compute_dtype` is
    what the layers compute in."""

    config: Any
    """The settings of the architecture, `initializer_range` and `tie_word_embeddings` among them."""
    vocabulary_size: int
    compute_dtype: torch.dtype
    embed_tokens: Embedding
    lm_head: Head

    @property
    @abstractmethod
    def most_positions(self) -> int:
        """The longest sequence that `generate` writes."""

    @property
    @abstractmethod
    def cached_heads(self) -> CachedHeads:
        """What a cache of the model keeps of each position."""

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for `capacity` positions."""
        sizes = self.cached_heads._asdict()
        return KeyValueCache(batch=batch, capacity=capacity, **sizes, **self._cached_as())

    def new_slots(self, slots: int, capacity: int) -> SlotCache:
        """Empty slots of a server, each for `capacity` positions."""
        sizes = self.cached_heads._asdict()
        return SlotCache(slots=slots, capacity=capacity, **sizes, **self._cached_as())

    def _cached_as(self) -> dict[str, Any]:
        return {"dtype": self.compute_dtype, "device": self.embed_tokens.weight.device}

    def slot_decoder(self, slots: int, positions: int) -> ModelSlots:
        """See `penstock.hooks.contracts.Slotted`."""
        model: Any = self
        return ModelSlots(model, self.new_slots(slots, min(positions, self.most_positions)))

    def complete(self, quantizer: Quantizer | SiteQuantizer | StoragePlan | None) -> None:
        """Ends the construction: draws the weights, ties the head to the embedding, and puts quantizers into sites."""
        self.reset_parameters()
        if self.config.tie_word_embeddings:
            self.lm_head.weight = cast(nn.Parameter, self.embed_tokens.weight)
        quantize(self, fitting(StoragePlan.of(quantizer), tied=self.config.tie_word_embeddings))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws every matrix from N(0, initializer_range), but starts the projections that write to the residual stream
        at zero, so that the first step sees an identity (nanochat and modded-nanogpt do the same). Routers draw their
        own weights."""
        for name, parameter in own_parameters(self):
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                parameter.zero_()
            elif parameter.dim() >= 2 and ".gate." not in name and self.role_of(name) != ParameterRole.NORM:
                parameter.normal_(0.0, self.config.initializer_range)

    @property
    def tied(self) -> bool:
        return self.lm_head.weight is self.embed_tokens.weight

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32, or fp64 of hidden states in fp64."""
        logits_BSV: Tensor = self.lm_head(hidden_BSD)
        return logits_BSV.to(torch.promote_types(torch.float32, logits_BSV.dtype))

    @property
    def head_weight_VD(self) -> Tensor | None:
        """The head's weight; the head has nothing else, unless it rounds its input or is factorised."""
        plain = self.lm_head.site.reads is None and self.lm_head.projection is None
        return self.lm_head.effective() if plain else None

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        inputs = Inputs.of(inputs)
        output, counted_BS = self(inputs), inputs.counted(mask_BS)
        mask_T = None if counted_BS is None else counted_BS.flatten()
        loss, nll_T = self.lm_head(output.hidden_BSD.flatten(0, 1), target_BS.flatten(), mask_T)
        return LossOutput(loss, nll_T.view_as(target_BS), output.routings)

    def generate(self, inputs: Inputs | Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        """[B, S + tokens]; see `penstock.moe_core.layers.generation.generate`."""
        model: Any = self
        return generation.generate(model, inputs, tokens=tokens, positions=self.most_positions, **sampling)


def fitting(plan: StoragePlan, *, tied: bool) -> StoragePlan:
    """The plan; raises ValueError if it stores one tensor in two formats."""
    embedding, head = (plan.formats.get(role) for role in (ParameterRole.EMBEDDING, ParameterRole.HEAD))
    if tied and embedding is not head:
        raise ValueError("embedding and head are one tensor: give both roles the same quantizer, or neither")
    return plan
