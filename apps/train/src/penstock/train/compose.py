"""From a validated config to working objects: the one place where columns meet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks import architecture
from penstock.hooks.architecture import architecture_settings, layer_routers, promised_positions
from penstock.hooks.contracts import (
    BalanceLoss,
    Balancer,
    FactorisableSite,
    Guarded,
    LanguageModel,
    ParameterRole,
    PartlyFrozen,
    Schedule,
    Scheduled,
    SharedParameters,
    SharingPlan,
    StoragePlan,
    StoredTensor,
)
from penstock.hooks.contracts.weights import FULL_PRECISION
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, names_of
from penstock.quant158.as_stored import stored_quantizer
from penstock.run.config import RunConfig
from penstock.run.records.training import FormatSize, ParameterCounts
from penstock.sharing.apply import apply_sharing
from penstock.sharing.plan import plan_of
from penstock.train.undrawn import Undrawn
from penstock.train.weights import (
    added_state,
    build_quantizer,
    check_formats,
    checkpoint_state,
    layouts_of,
    load_added_state,
    sites_of,
    storage_fault,
)

# In the names of parameters that a quantizer keeps beside the weight (see `penstock.moe_core.layers.site`).
QUANTIZERS = ".quantizers."


def planned_vocabulary(config: RunConfig) -> int:
    """Vocabulary size of the config's tokenizer; the real one is smaller if there is too little text to train it on."""
    settings = config.data.tokenizer
    return settings.vocab_size if settings.file is None else BpeTokenizer.load(settings.file).vocabulary_size


@dataclass(frozen=True, slots=True)
class Composition:
    """A model and what was put into it."""

    model: LanguageModel
    storage: StoragePlan
    shared: SharedParameters
    first_plan: SharingPlan
    """Which tensors of the model's checkpoint are one when training begins."""
    losses: dict[str, BalanceLoss]
    balancers: list[Balancer]
    base_hash: str | None
    """Hash of the frozen base, taken while the model is whole; None for a model that trains all its parameters."""
    written_out: int
    """Numbers that the checkpoint has in the layouts of other software (see `_written_out`), counted while the model is
    whole."""

    @property
    def module(self) -> nn.Module:
        """The model as a module, which every `LanguageModel` is."""
        return cast(nn.Module, self.model)

    @property
    def stored_plan(self) -> SharingPlan:
        """Which tensors of the model's checkpoint are one; a strategy that learns may change it."""
        return self.first_plan if self.shared.hardened() is None else plan_of(checkpoint_state(self.model))

    def roles(self) -> dict[str, ParameterRole]:
        """Role of every parameter, those that sharing added included."""
        return {**self.model.parameter_roles(), **self.shared.roles()}

    def added_state(self) -> dict[str, torch.Tensor]:
        """What sharing and quantizers keep beside the model's own parameters."""
        return added_state(self.model, self.shared)

    def set_tokens(self, tokens: int) -> None:
        """Tells quantizers that change in the course of training how far it is."""
        for module in self.module.modules():
            # Every step asks every module, and `isinstance` of a protocol takes ten times as long.
            if hasattr(type(module), "set_tokens"):
                cast(Scheduled, module).set_tokens(tokens)

    @property
    def guarded(self) -> bool:
        """Whether a quantizer knows which weights its format cannot hold."""
        return any(isinstance(module, Guarded) for module in self.module.modules())

    def fault(self) -> str | None:
        """The first weight that its format cannot hold, and why; None if every format holds its weight."""
        return storage_fault(self.model)

    def load_added_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Inverse of `added_state`, bit for bit; raises `ProblemError` that names missing and unknown tensors."""
        load_added_state(self.model, self.shared, state)


def compose_model(
    config: RunConfig,
    vocabulary_size: int,
    device: torch.device | str = "cpu",
    *,
    end_of_text: int | None = None,
    as_stored: bool = False,
) -> Composition:
    """Builds the model with its routers, quantizer and shared parameters. The same seed gives the same weights.

    With `as_stored` for weights that are already what the forward pass computes with: no site changes them before it
    adds what belongs to its own use, and no parameter is shared, because the file of the weights says what is one.
    """
    settings = architecture_settings(config.model)
    if (settings.vocab_size or vocabulary_size) < vocabulary_size:  # a trained tokenizer was checked before
        what = f"the tokenizer has {vocabulary_size} tokens, but the model has only {settings.vocab_size} embeddings"
        fix = "use the model's own tokenizer"
        raise ProblemError(Problem("vocabulary-mismatch", what, "data.tokenizer.file", fix))
    routers = layer_routers(settings, settings.expert_layers)
    quantizer = build_quantizer(config.model)
    if as_stored:
        quantizer = stored_quantizer(quantizer)
    torch.manual_seed(config.seed)
    model: Any = build_architecture(
        config.model,
        device,
        vocab_size=settings.vocab_size or vocabulary_size,
        eos_token_id=end_of_text if settings.eos_token_id is None else settings.eos_token_id,
        make_router=lambda layer, **context: routers[layer].build(**context),
        quantizer=quantizer,
    )
    _require_positions(model, config.data.sequence_length)
    storage, roles = StoragePlan.of(quantizer), model.parameter_roles()
    shared = apply_sharing(
        model,
        [choice.build() for choice in settings.sharing],
        config.seed,
        storage,
        owners=[choice.entry.component.name for choice in settings.sharing],
        given_weights=as_stored,
    )
    check_formats(storage, shared.plan, roles)
    penalties = [choice for choice in settings.balance if choice.entry.component.kind == "balance-loss"]
    losses = {name: choice.build() for name, choice in zip(names_of(penalties), penalties, strict=True)}
    balancers = [c.build() for c in settings.balance if c.entry.component.kind == "balancer"]
    if config.train.dtype == "bf16":
        _compute_in_bf16(model)
    base = None if str(device) == "meta" else _base_hash(model)
    state = checkpoint_state(model)
    return Composition(model, storage, shared, plan_of(state), losses, balancers, base, _written_out(model, state))


def _base_hash(model: object) -> str | None:
    return model.base_hash() if isinstance(model, PartlyFrozen) else None


def build_architecture(choice: Choice, device: torch.device | str, **context: Any) -> LanguageModel:
    """The model on a device, built from its own settings and the context, which overrides them."""
    with torch.device(device), Undrawn(), _named_as_problems():
        return architecture.build_architecture(choice, **context)


def _require_positions(model: LanguageModel, length: int) -> None:
    """The config was checked as far as it says; a type of transformers has a default that only its class knows."""
    most = promised_positions(model.export_config())
    if most is not None and length > most:
        what = f"sequences have {length} tokens, but the model reads at most {most} positions"
        fix = "shorten the sequences, or give the model more positions"
        raise ProblemError(Problem("bad-value", what, "data.sequence_length", fix))


def _compute_in_bf16(model: LanguageModel) -> None:
    if not hasattr(model, "compute_dtype"):  # contract 1 of architectures did not require it
        what = f"{type(model).__name__} computes only in fp32"
        raise ProblemError(Problem("unsupported", what, "train.dtype", "set it to fp32, or use another architecture"))
    model.compute_dtype = torch.bfloat16


@contextmanager
def _named_as_problems() -> Iterator[None]:
    """Turns a ValueError of a built object into a `Problem`: the config's numbers do not fit together."""
    try:
        yield
    except ValueError as error:
        raise ProblemError(Problem("bad-value", str(error), "model")) from error


def compose_optimizer(
    config: RunConfig, model: LanguageModel, added_roles: Mapping[str, ParameterRole] | None = None
) -> torch.optim.Optimizer:
    """The config's optimizer over all parameters that train, grouped by role. `added_roles` are those of parameters
    that sharing added."""
    by_role: dict[ParameterRole, dict[str, Any]] = {role: {} for role in ParameterRole}
    roles = {**model.parameter_roles(), **(added_roles or {})}
    for name, parameter in trained_parameters(cast(nn.Module, model)).items():
        by_role[roles[name]][name] = parameter
    optimizer = config.train.optimizer
    more = {"layouts": layouts_of(model)} if optimizer.entry.component.contract >= 2 else {}
    return optimizer.build(parameters=by_role, **more)


def compose_schedule(config: RunConfig) -> Schedule:
    """The config's schedule; one of contract 2 is told the length of the run."""
    schedule = config.train.schedule
    length = {"tokens": config.steps * config.tokens_per_step} if schedule.entry.component.contract >= 2 else {}
    return schedule.build(**length)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if one is available, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ProblemError(
            Problem(
                "no-device",
                f"device '{name}' cannot be used ({str(error).splitlines()[0]})",
                "train.device",
                "use auto or cpu",
            )
        ) from error


def parameter_summary(composition: Composition) -> ParameterCounts:
    """Counts of parameters: total, trained, active for one token, and by role."""
    roles = composition.roles()
    by_role: dict[str, int] = {}
    for name, parameter in composition.module.named_parameters():
        by_role[roles[name]] = by_role.get(roles[name], 0) + parameter.numel()
    trained = sum(parameter.numel() for parameter in trained_parameters(composition.module).values())
    return ParameterCounts(sum(by_role.values()), trained, active_parameters(composition), by_role)


def active_parameters(composition: Composition) -> int:
    """Parameters that one token uses: k of E routed experts, and the whole embedding; a shared one once."""
    roles = composition.roles()
    sizes = [(roles[name], each.numel()) for name, each in composition.module.named_parameters()]
    routed = sum(size for role, size in sizes if role == ParameterRole.EXPERT)
    return sum(size for _, size in sizes) - routed + round(routed * share_of_experts(composition))


def share_of_experts(composition: Composition) -> float:
    """The share of its routed experts that a token uses, the mean over layers; 1 without experts."""
    shares = [router.k / router.experts for router in composition.model.routers.values()]
    return sum(shares) / len(shares) if shares else 1.0


def routing_header(name: str, model: LanguageModel) -> dict[str, Any]:
    """The part of a trace's header that is known before any token is routed. `k` is one number, or one per layer if
    they differ."""
    ks = [router.k for router in model.routers.values()]
    return {
        "model": name,
        "k": ks[0] if len(set(ks)) == 1 else ks,
        "hidden_size": model.export_config().get("hidden_size"),
    }


def stored_tensors(composition: Composition) -> list[StoredTensor]:
    """How each parameter that trains is stored; a shared one is listed once. What quantizers learn is part of their
    scales."""
    stored = trained_parameters(composition.module)
    shapes = {name: tuple(each.shape) for name, each in stored.items() if QUANTIZERS not in name}
    return composition.storage.entries(composition.roles(), shapes, layouts_of(composition.model))


def size_table(composition: Composition) -> list[FormatSize]:
    """Bytes of the stored parameters in each format; shared parameters count once, frozen ones are not stored. Where
    the layout of transformers has more numbers, a row says how many bytes it takes."""
    stored = stored_tensors(composition)
    total = sum(math.prod(each.shape) for each in stored)
    rows = [FormatSize("fp32", 4 * total), FormatSize("bf16", 2 * total)]
    if _shares_layers(composition):
        factors = " and factors multiplied" if _factorised(composition) else ""
        label = f"fp32 for transformers, shared tensors repeated{factors}"
        rows.append(FormatSize(label, 4 * composition.written_out))
    if composition.storage.formats:
        label = f"{_formats(composition.storage)}, rest {FULL_PRECISION}"
        rows.append(FormatSize(label, sum(each.bytes for each in stored)))
    return rows


def _shares_layers(composition: Composition) -> bool:
    """Whether the model has what layouts of other software lack: they have a head that is the embedding."""
    roles = composition.model.parameter_roles()
    groups = composition.shared.hardened() or composition.shared.plan
    tables = (ParameterRole.EMBEDDING, ParameterRole.HEAD)
    return _factorised(composition) or any(roles.get(group[0]) not in tables for group in groups.groups)


def _factorised(composition: Composition) -> bool:
    sites = sites_of(composition.model).values()
    return any(isinstance(site, FactorisableSite) and site.whole is not None for site in sites)


def _written_out(model: LanguageModel, state: Mapping[str, torch.Tensor]) -> int:
    """Numbers of a checkpoint with a tensor for each name and with factors multiplied, as the layouts of other
    software have them; 0 for a model that is partly frozen, which is merged on export."""
    if isinstance(model, PartlyFrozen):
        return 0
    numbers = sum(tensor.numel() for tensor in state.values())
    counted: set[int] = set()  # a table that is one with another is in the state once
    for site in sites_of(model).values():
        if isinstance(site, FactorisableSite) and site.whole is not None:
            (rows, width), rank = site.whole, site.weight.shape[-1]
            table = 0 if id(site.weight) in counted else rows * rank
            counted.add(id(site.weight))
            numbers += rows * width - width * rank - table
    return numbers


def _formats(storage: StoragePlan) -> str:
    """The formats, with their roles where there are several."""
    served: dict[str, list[str]] = {}
    for role in (role for role in ParameterRole if role in storage.formats):
        quantizer = storage.formats[role]
        served.setdefault(getattr(quantizer, "format", type(quantizer).__name__), []).append(role)
    if len(served) == 1:
        return next(iter(served))
    return ", ".join(f"{name} ({', '.join(roles)})" for name, roles in served.items())
