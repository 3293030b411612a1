"""A frozen model with trainable routed experts in chosen layers.

Measured choices:

- Nothing of the base requires a gradient, so autograd records nothing before the first layer with experts, and after it
  only the gradient of hidden states.
- The head gets no gradient, which leaves two of three matrix products and one exponential per logit (`loss`).
- The base is never in training mode: dropout would only add noise to frozen weights.
- Experts next to an MLP start with a zero down projection: x + 0 is x, so the first logits are bit-identical to the
  base's.
- Experts in place of an MLP start as copies of it, and the weights of a token sum to 1: the first logits are the base's
  up to the rounding of that sum. The MLP stays in memory, so the base keeps its hash and its names.

Shape suffixes: B batch, S sequence, T = B*S tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from penstock.hooks.architecture import (
    architecture_settings,
    build_architecture,
    layer_routers,
    promised_positions,
)
from penstock.hooks.contracts import (
    Inputs,
    LaidOut,
    LanguageModel,
    Layered,
    LossOutput,
    ModelOutput,
    ParameterLayout,
    ParameterRole,
    PlainHead,
    Quantizer,
    Router,
    RouterFactory,
    Routing,
    SiteQuantizer,
    StoragePlan,
)
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.moe_core.frozen_base import adapters
from penstock.moe_core.frozen_base.adapters import RoutedExperts
from penstock.moe_core.frozen_base.config import absent_layers
from penstock.moe_core.frozen_base.merged import merge
from penstock.moe_core.frozen_base.prefix_cache import Prefix
from penstock.moe_core.hub.tensors import check_names
from penstock.moe_core.layers import generation
from penstock.moe_core.layers.experts import Experts
from penstock.moe_core.layers.language_model import CausalModel
from penstock.moe_core.layers.loss import head_cross_entropy, linear_cross_entropy
from penstock.moe_core.layers.routed_rows import RoutedRows
from penstock.moe_core.layers.site import (
    NamedSite,
    layouts_in,
    load_own_state,
    own_parameters,
    own_state,
    quantize,
    sites_of,
)
from penstock.moe_core.layers.slot_decoder import ModelSlots

BASE, ADAPTERS = "base.", "adapters."


class FrozenBase(nn.Module):
    """A `LanguageModel` around a frozen one, `base`. See `FrozenBaseConfig` for the settings.

    `layers` of the base get experts; they are counted from 0. `routers` and routings are only those of these layers;
    routers of the base itself are frozen and not included. Raises `ProblemError` for unknown layers, and for a base
    without MLPs.
    """

    def __init__(
        self,
        base: LanguageModel,
        *,
        layers: Sequence[int],
        make_router: RouterFactory,
        experts: int = 8,
        place: Literal["beside", "in_place"] = "beside",
        expert_size: int | None = None,
        quantizer: Quantizer | SiteQuantizer | StoragePlan | None = None,
    ) -> None:
        super().__init__()
        self._modules["base"] = cast(nn.Module, base).requires_grad_(False)
        self.vocabulary_size = base.vocabulary_size
        self.place: Literal["beside", "in_place"] = place
        mlps = adapters.mlps_of_layers(self.base)
        if missing := [layer for layer in layers if not 0 <= layer < len(mlps)]:
            raise ProblemError(Problem("bad-value", absent_layers(missing, len(mlps)), "model.layers", "remove them"))
        width = _width(self.base)
        self.adapters = nn.ModuleDict()
        for layer in sorted(layers):
            router = make_router(layer, hidden_size=width, experts=experts)
            if place == "beside":
                made: nn.Module = adapters.experts_from_zero(experts, width, expert_size or 4 * width)
            else:
                _require_whole_weights(make_router, layer, width, experts)
                made = adapters.copies_of(mlps[layer], experts, f"model.layers ({layer})")
            self.adapters[str(layer)] = RoutedExperts(router, made)
        self._quantize(StoragePlan.of(quantizer))
        self._prefix: Prefix | None = None
        self.train()

    @property
    def base(self) -> Any:
        """The frozen model. A property, because protocols do not see submodules."""
        return self._modules["base"]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype in which the layers compute; parameters are fp32."""
        return self.base.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self.base.compute_dtype = dtype

    @property
    def routers(self) -> Mapping[int, Router]:
        return {layer: adapter.gate for layer, adapter in self._adapters().items()}

    def blocks(self) -> Sequence[nn.Module]:
        """The base's layers (see `penstock.hooks.contracts.Layered`), in which the experts run, although they are no
        submodules of them."""
        return self.base.blocks() if isinstance(self.base, Layered) else adapters.decoder_layers(self.base)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput:
        """Reads what the base reads; given experts are for the adapters' routers."""
        inputs = Inputs.of(inputs)
        remembers = self._prefix is not None and cache is None and not inputs.known
        prefix = self._prefix.over(inputs.token_BS) if self._prefix is not None and remembers else nullcontext()
        with prefix, self._adapted(RoutedRows.of(inputs, self.routers)) as routings:
            hidden_BSD = self.base(_of_the_base(inputs), cache=cache).hidden_BSD
        return ModelOutput(hidden_BSD, routings)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within this context, layers before the first one with experts are computed once for the same tokens. A later
        pass over them starts after these layers, with the same bits, if the base's layers are a plain chain (see
        `Prefix`).

        It takes [B, S, D] in `compute_dtype` for each batch of tokens until the end: 1 MiB for a step with four
        micro-batches of 4 texts of 256 tokens and D = 64. Nothing is kept for a pass with inputs other than tokens, for
        a base with routers of its own, or for a base in training mode.
        """
        first = min(self.routers, default=0)
        if first > 0 and not self.base.routers and not self.base.training:
            layers = adapters.decoder_layers(self.base)
            self._prefix = Prefix(layers[:first], layers[first])
        try:
            yield
        finally:
            self._prefix = None

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32."""
        return self.base.logits(hidden_BSD)

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        inputs = Inputs.of(inputs)
        output, counted_BS = self(inputs), inputs.counted(mask_BS)
        hidden_TD, target_T = output.hidden_BSD.flatten(0, 1), target_BS.flatten()
        mask_T = None if counted_BS is None else counted_BS.flatten()
        base = self.base
        weight_VD = base.head_weight_VD if isinstance(base, PlainHead) else None
        if weight_VD is None:
            loss, nll_T = head_cross_entropy(self.logits, hidden_TD, target_T, mask_T, self.vocabulary_size)
        else:
            loss, nll_T = linear_cross_entropy(hidden_TD, weight_VD, target_T, mask_T)
        return LossOutput(loss, nll_T.view_as(target_BS), output.routings)

    def new_cache(self, batch: int, capacity: int) -> Any:
        """The base's cache; experts need none."""
        return self.base.new_cache(batch, capacity)

    def slot_decoder(self, slots: int, positions: int) -> ModelSlots | None:
        """See `penstock.hooks.contracts.Slotted`. None for a base of another package, whose cache is its own."""
        base = self.base
        if not isinstance(base, CausalModel):
            return None
        return ModelSlots(self, base.new_slots(slots, min(positions, base.most_positions)))

    def generate(self, inputs: Inputs | Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        """[B, S + tokens]; see `penstock.moe_core.layers.generation.generate`."""
        most = promised_positions(self.base.export_config())
        return generation.generate(self, inputs, tokens=tokens, positions=most, **sampling)

    def parameter_roles(self) -> dict[str, ParameterRole]:
        """Parameters added by sites have the role of norms, unless the code that added them says otherwise."""
        roles = {f"{BASE}{name}": role for name, role in self.base.parameter_roles().items()}
        roles |= dict.fromkeys(
            (f"{ADAPTERS}{name}" for name, _ in self.adapters.named_parameters()), ParameterRole.NORM
        )
        own = own_parameters(self.adapters)
        return roles | {f"{ADAPTERS}{name}": _role(name, parameter.ndim) for name, parameter in own}

    def parameter_layout(self) -> dict[str, ParameterLayout]:
        base: Mapping[str, ParameterLayout] = self.base.parameter_layout() if isinstance(self.base, LaidOut) else {}
        own = layouts_in(self.adapters)
        return {f"{BASE}{name}": each for name, each in base.items()} | {
            f"{ADAPTERS}{n}": each for n, each in own.items()
        }

    def weight_sites(self) -> dict[str, NamedSite]:
        """Those of the experts; the base is frozen."""
        return {name: site for name, site in sites_of(self).items() if name.startswith(ADAPTERS)}

    def export_config(self) -> dict[str, Any]:
        """The base's config under our own `model_type`: no transformers class has both."""
        return {
            **self.base.export_config(),
            "architectures": ["PenstockFrozenBase"],
            "model_type": "penstock_frozen_base",
            "frozen_base": {
                "model_type": self.base.export_config().get("model_type"),
                "place": self.place,
                "layers": sorted(self.routers),
                "experts": next(iter(self.routers.values())).experts,
            },
        }

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        """The base's names with prefix `base.`, and trained tensors with prefix `adapters.`."""
        state = {f"{BASE}{name}": tensor for name, tensor in self.base.export_state().items()}
        state |= {f"{ADAPTERS}{name}": tensor for name, tensor in self.trained_state().items()}
        if materialize:
            state |= {name: site.effective().detach() for name, site in self.weight_sites().items()}
        return state

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        parts = {
            prefix: {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            for prefix in (BASE, ADAPTERS)
        }
        strange = [name for name in state if not name.startswith((BASE, ADAPTERS))]
        if strange:
            problems = [Problem("bad-checkpoint", f"tensor '{name}' is not part of the model") for name in strange]
            raise ProblemError(problems)
        self.base.load_export_state(parts[BASE])
        self.load_trained_state(parts[ADAPTERS])

    def base_hash(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.base.export_state().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def merged(self) -> LanguageModel:
        """An equivalent single model without a base; see `penstock.moe_core.frozen_base.merged`."""
        return merge(self.base, self._adapters(), beside=self.place == "beside")

    def trained_state(self) -> dict[str, Tensor]:
        return own_state(self.adapters)

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        check_names(state, own_state(self.adapters))
        load_own_state(self.adapters, state)

    def _quantize(self, plan: StoragePlan) -> None:
        for adapter in self._adapters().values():
            if ParameterRole.EXPERT in plan.formats and not isinstance(adapter.experts, Experts):
                what = "experts copied from an MLP that is not a SwiGLU cannot be quantized"
                fix = "remove it, or use a base with SwiGLU MLPs"
                raise ProblemError(Problem("unsupported", what, "model.quantizer", fix))
        quantize(self.adapters, plan)

    def _adapters(self) -> dict[int, RoutedExperts]:
        return {int(layer): cast(RoutedExperts, adapter) for layer, adapter in self.adapters.items()}

    def _adapted(self, rows: RoutedRows) -> AbstractContextManager[dict[int, Routing]]:
        own = self._adapters()
        mlps = adapters.mlps_of_layers(self.base)
        return adapters.adapted(
            {layer: mlps[layer] for layer in own}, own, rows, beside=self.place == "beside", dtype=self.compute_dtype
        )


def frozen_base(
    *,
    base: Choice,
    make_router: RouterFactory,
    vocab_size: int | None = None,
    eos_token_id: int | list[int] | None = None,
    **settings: Any,
) -> FrozenBase:
    """The component's target: builds the configured base with its initial weights and puts experts into it. From
    Python, pass a built model to `FrozenBase`."""
    theirs = architecture_settings(base)
    routers = layer_routers(theirs, theirs.expert_layers)
    try:
        built = build_architecture(
            base,
            vocab_size=vocab_size if theirs.vocab_size is None else theirs.vocab_size,
            eos_token_id=eos_token_id if theirs.eos_token_id is None else theirs.eos_token_id,
            make_router=lambda layer, **context: routers[layer].build(**context),
            quantizer=None,
        )
    except ProblemError as error:  # a model of its own would be at `model`
        found = [replace(each, where=each.where.replace("model.", "model.base.", 1)) for each in error.problems]
        raise ProblemError(found, error.exit_code) from error
    return FrozenBase(built, make_router=make_router, **settings)


def _of_the_base(inputs: Inputs) -> Inputs | Tensor:
    """The inputs for the base, without the experts given to our routers."""
    theirs = replace(inputs, expert_BSK=None)
    return theirs if theirs.known else theirs.token_BS


def _width(base: nn.Module) -> int:
    """D, the width of the embedding."""
    embeddings = [module for module in base.modules() if isinstance(module, nn.Embedding)]
    return max(embeddings, key=lambda each: each.num_embeddings).embedding_dim


def _role(name: str, dimensions: int) -> ParameterRole:
    if dimensions < 2 or name.endswith("bias"):
        return ParameterRole.BIAS
    return ParameterRole.EXPERT if dimensions == 3 else ParameterRole.ROUTER


def _require_whole_weights(make_router: RouterFactory, layer: int, width: int, experts: int) -> None:
    """Copies of an MLP add up to the MLP if the weights of a token sum to 1; this is checked with a trial routing."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        router = cast(nn.Module, make_router(layer, hidden_size=width, experts=experts)).eval()
        sum_T = router(torch.randn(16, width)).weight_TK.sum(dim=-1)
    if not torch.allclose(sum_T, torch.ones_like(sum_T), atol=1e-4):
        what = f"the weights of a token sum to between {sum_T.min():.3g} and {sum_T.max():.3g} instead of 1"
        fix = "use a router that normalises them, with scale 1 and without capacity, or write `place: beside`"
        raise ProblemError(Problem("bad-value", what, "model.router", fix))
