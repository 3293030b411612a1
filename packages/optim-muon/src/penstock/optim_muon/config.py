"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from penstock.hooks.config import Schema
from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.roles import MUON_ROLES, checked_muon_roles
from penstock.optim_muon.schedules import WarmupStableDecay
from penstock.optim_muon.width import adamw_factor, muon_factor

RoleRates = dict[ParameterRole, Annotated[float, Field(ge=0)]]


class MuonConfig(Schema):
    """Muon for matrices and experts, AdamW for the rest."""

    lr: float = Field(default=0.02, ge=0)
    """Learning rate of the Muon roles. 0.02 suits small models and short runs; GLM-4.5 peaks at 2.5e-4."""

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay rate of the gradient average; 0.95 in the reference implementation, Moonlight and GLM-4.5."""

    nesterov: bool = True
    """Use Nesterov momentum, as the reference implementation does."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of Muon and AdamW; norms, biases and embeddings are exempt. GLM-4.5 uses 0.1; short runs
    need none. Nor do ternary matrices: their levels depend on ratios of weights alone, and decay only lets small
    gradients flip more of them."""

    scaling: Literal["match_rms", "original"] = "match_rms"
    """Update scale: match_rms gives RMS 0.2 like AdamW (Moonlight, GLM-4.5); original uses sqrt(max(1, rows / columns))
    (Keller Jordan)."""

    steps: int = Field(default=5, ge=1)
    """Newton-Schulz iterations; 5 in GLM-4.5 and the reference implementation."""

    iteration_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the iterations. The reference implementation uses bfloat16, which takes half the time of float32 on
    hardware with bf16 instructions (GPUs, CPUs with AVX512-BF16 or AMX) and several times as long elsewhere. auto picks
    the faster one."""

    muon_roles: tuple[ParameterRole, ...] = MUON_ROLES
    """Parameter roles optimized by Muon: matrix, expert or both."""

    adamw_lr: float | None = Field(default=None, ge=0)
    """Learning rate of the AdamW roles; null uses `lr`, which suits both rules with `match_rms`."""

    role_lr: RoleRates | None = None
    """Learning rates that override the default for single roles, such as {router: 0.003}: a rate that suits embeddings
    saturates a router."""

    adamw_betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's beta1 and beta2; (0.9, 0.95) is standard for language models since GPT-3."""

    adamw_eps: float = Field(default=1e-8, ge=0)
    """AdamW's epsilon, added to the denominator; torch's default."""

    split_fused: bool = True
    """Orthogonalise each matrix of a fused tensor, such as gate and up of experts, separately. If off, a tensor is one
    matrix, in which the larger gradient takes the update of the others; runs before this default were trained so."""

    @field_validator("muon_roles")
    @classmethod
    def _muon_may_take_them(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        return checked_muon_roles(roles)

    @field_validator("adamw_betas")
    @classmethod
    def _betas_are_decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        return _checked_betas(betas)

    def at_width(self, ratio: float) -> Self:
        """The settings for a model that is `ratio` times as wide (see `penstock.optim_muon.width`)."""
        if ratio == 1:
            return self
        muon, adamw = muon_factor(ratio, self.scaling), self.lr if self.adamw_lr is None else self.adamw_lr
        own = self.role_lr or {}
        rates = {
            role: rate * (muon if role in self.muon_roles else adamw_factor(ratio, role)) for role, rate in own.items()
        }
        by_adamw = _adamw_rates(adamw, ratio, set(ParameterRole) - set(self.muon_roles) - set(own))
        return self.model_copy(update={"lr": self.lr * muon, "adamw_lr": adamw, "role_lr": rates | by_adamw or None})


class AdamWConfig(Schema):
    """AdamW for all parameters."""

    lr: float = Field(default=3e-4, ge=0)
    """Learning rate; 3e-4 is a safe start for models of tens to hundreds of millions of parameters (GPT-3's range)."""

    role_lr: RoleRates | None = None
    """Learning rates that override `lr` for single roles, such as {router: 1e-4}."""

    betas: tuple[float, float] = (0.9, 0.95)
    """beta1 and beta2; (0.9, 0.95) is standard for language models since GPT-3."""

    eps: float = Field(default=1e-8, ge=0)
    """Epsilon, added to the denominator; torch's default."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay; norms, biases and embeddings are exempt. 0.1 is standard since GPT-3."""

    @field_validator("betas")
    @classmethod
    def _betas_are_decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        return _checked_betas(betas)

    def at_width(self, ratio: float) -> Self:
        """The settings for a model that is `ratio` times as wide (see `penstock.optim_muon.width`)."""
        if ratio == 1:
            return self
        own = {role: rate * adamw_factor(ratio, role) for role, rate in (self.role_lr or {}).items()}
        rates = own | _adamw_rates(self.lr, ratio, set(ParameterRole) - set(own))
        return self.model_copy(update={"role_lr": rates or None})


class ConstantConfig(Schema):
    """Constant learning rate."""

    warmup: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the run with linear warm-up from 0."""


class CosineConfig(Schema):
    """Linear warm-up, then cosine decay."""

    warmup: float = Field(default=0.02, ge=0, le=1)
    """Fraction of the run with linear warm-up from 0; 1 to 2 percent is typical."""

    final: float = Field(default=0.1, ge=0, le=1)
    """Factor on the learning rate at the end; 0.1 in Chinchilla and GLM-4.5 (2.5e-4 to 2.5e-5)."""


class WarmupStableDecayConfig(Schema):
    """Linear warm-up, constant, linear decay."""

    warmup: float = Field(default=0.02, ge=0, le=1)
    """Fraction of the run with linear warm-up from 0; 1 to 2 percent is typical."""

    decay: float = Field(default=0.2, ge=0, le=1)
    """Fraction of the run with linear decay at the end; 0.2 matches a tuned cosine (arXiv 2405.18392)."""

    final: float = Field(default=0.0, ge=0, le=1)
    """Factor on the learning rate at the end."""

    warmup_tokens: int | None = Field(default=None, ge=0)
    """Tokens of warm-up, in place of the fraction. Runs of all lengths then begin alike, so a longer run can continue
    this one from where it begins to decay (`penstock train --fork`); that checkpoint is kept."""

    decay_tokens: int | None = Field(default=None, ge=0)
    """Tokens of decay, in place of the fraction."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.warmup_tokens is None and self.decay_tokens is None:
            WarmupStableDecay(self.warmup, self.decay, self.final)
        return self

    def misfits_of_run(self, tokens: int) -> Iterator[tuple[tuple[str], str]]:
        """What does not fit a run of so many tokens: (field, reason)."""
        try:
            WarmupStableDecay(tokens=tokens, **dict(self))
        except ValueError as error:
            yield ("decay" if self.decay_tokens is None else "decay_tokens",), str(error)


def _adamw_rates(rate: float, ratio: float, roles: Set[ParameterRole]) -> RoleRates:
    """Rates of the roles whose rate follows the width, in the order of the roles."""
    return {role: rate / ratio for role in ParameterRole if role in roles and adamw_factor(ratio, role) != 1}


def _checked_betas(betas: tuple[float, float]) -> tuple[float, float]:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas {betas} out of range: use numbers in [0, 1)")
    return betas
