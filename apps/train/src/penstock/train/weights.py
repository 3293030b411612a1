"""How a model's weights are stored: the quantizer of each role, what sharing and quantizers add, and what a checkpoint
has of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from penstock.hooks.architecture import SITES
from penstock.hooks.contracts import (
    GuardedSite,
    LaidOut,
    LanguageModel,
    ParameterLayout,
    ParameterRole,
    PartlyFrozen,
    QuantizesInput,
    SharedParameters,
    SharingPlan,
    Sited,
    StoragePlan,
    WeightSite,
)
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice

SHARING, QUANTIZER = "sharing.", "quantizer."  # before the names of what they keep


def checkpoint_state(model: LanguageModel) -> dict[str, Tensor]:
    """What a checkpoint has of the model itself: of one that is partly frozen, what trains."""
    return model.trained_state() if isinstance(model, PartlyFrozen) else model.export_state()


def sites_of(model: LanguageModel) -> Mapping[str, WeightSite]:
    """The model's weight sites by the name of the parameter, empty for an architecture without."""
    return cast(Any, model).weight_sites() if isinstance(model, Sited) else {}


def layouts_of(model: LanguageModel) -> Mapping[str, ParameterLayout]:
    """Layout of the parameters that are not one matrix each."""
    return cast(Any, model).parameter_layout() if isinstance(model, LaidOut) else {}


def build_quantizer(architecture: Choice) -> Any:
    """What the architecture is given: None, a quantizer, or a `StoragePlan` where the config says it by role. Raises
    `ProblemError` for a quantizer that does not serve its role, or that the architecture cannot take."""
    chosen = architecture.settings.quantizer
    if chosen is None:
        return None
    if not isinstance(chosen, Choice):
        return _storage_plan(chosen.by_role())
    quantizer = chosen.build()
    if SITES not in architecture.entry.component.capabilities and _needs_sites(quantizer):
        what = f"'{chosen.entry.component.name}' needs weight sites, which '{architecture.entry.component.name}' lacks"
        raise ProblemError(Problem("unsupported", what, "model.quantizer", "leave it out, or use glm-moe"))
    return quantizer


def _needs_sites(quantizer: Any) -> bool:
    """Whether one function of the weight is not all that the quantizer does."""
    rounds = isinstance(quantizer, QuantizesInput) and quantizer.input_bits is not None
    return rounds or not hasattr(quantizer, "fake_quantize") or getattr(quantizer, "warmup", None) is not None


def _storage_plan(by_role: Mapping[ParameterRole, Choice]) -> StoragePlan:
    built: list[tuple[Choice, Any]] = []
    formats: dict[ParameterRole, Any] = {}
    for role, choice in by_role.items():
        quantizer = next((each for known, each in built if known == choice), None) or choice.build()
        built.append((choice, quantizer))
        if role not in quantizer.roles:
            served = ", ".join(sorted(quantizer.roles))
            what = f"'{choice.entry.component.name}' does not serve the role {role}; it serves {served}"
            raise ProblemError(Problem("bad-value", what, f"model.quantizer.{role}", "take another quantizer for it"))
        formats[role] = quantizer
    return StoragePlan(formats)


def check_formats(storage: StoragePlan, plan: SharingPlan, roles: Mapping[str, ParameterRole]) -> None:
    """Raises `ProblemError` for a shared tensor that would have to be stored in two formats."""
    for group in plan.groups:
        formats = [storage.formats.get(roles[name]) for name in group]
        if any(each is not formats[0] for each in formats):
            what = f"{' and '.join(group)} are one tensor, and their roles have two formats"
            fix = "give these roles the same quantizer, or share something else"
            raise ProblemError(Problem("bad-value", what, "model.quantizer", fix))


def added_state(model: LanguageModel, shared: SharedParameters) -> dict[str, Tensor]:
    """What sharing and quantizers keep beside the model's own parameters."""
    state = {f"{SHARING}{name}": tensor for name, tensor in shared.stored_state().items()}
    for name, site in sites_of(model).items():
        state |= {f"{QUANTIZER}{name}.{key}": tensor for key, tensor in site.quantizer_state().items()}
    return state


def load_added_state(model: LanguageModel, shared: SharedParameters, state: Mapping[str, Tensor]) -> None:
    """Inverse of `added_state`, bit for bit; raises `ProblemError` that names missing and unknown tensors."""
    own = added_state(model, shared)
    problems = [Problem("bad-checkpoint", f"tensor '{name}' is missing") for name in sorted(own.keys() - state.keys())]
    unknown = sorted(state.keys() - own.keys())
    problems += [Problem("bad-checkpoint", f"no sharing and no quantizer keeps a tensor '{name}'") for name in unknown]
    if problems:
        raise ProblemError(problems)
    shared.load_stored_state(_below(state, SHARING))
    for name, site in sites_of(model).items():
        site.load_quantizer_state(_below(state, f"{QUANTIZER}{name}."))


def storage_fault(model: LanguageModel) -> str | None:
    """The first weight that its storage format cannot hold, and why; None if every format holds its weight."""
    guarded = {name: site for name, site in sites_of(model).items() if isinstance(site, GuardedSite)}
    faults = ((name, site.fault()) for name, site in guarded.items())
    return next((f"'{name}' has {fault}" for name, fault in faults if fault is not None), None)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
