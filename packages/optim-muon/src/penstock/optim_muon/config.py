"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from penstock.hooks.config import Schema
from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.roles import MUON_ROLES, checked_muon_roles
from penstock.optim_muon.schedules import WarmupStableDecay

RoleRates = dict[ParameterRole, Annotated[float, Field(ge=0)]]


class MuonConfig(Schema):
    """Muon for matrices and experts, AdamW for the rest."""

    lr: float = Field(default=0.02, ge=0)
    """Learning rate of the Muon roles. 0.02 suits small models and short runs; GLM-4.5 peaks at 2.5e-4."""

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the gradient average; 0.95 in the reference implementation, Moonlight and GLM-4.5."""

    nesterov: bool = True
    """Step from the average as it will be after the gradient; the reference implementation does."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of both rules, without norms, biases and embeddings. GLM-4.5 uses 0.1; short runs need none."""

    scaling: Literal["match_rms", "original"] = "match_rms"
    """Size of an update: RMS 0.2 like AdamW's (Moonlight, GLM-4.5), or sqrt(max(1, rows / columns)) (Keller Jordan)."""

    steps: int = Field(default=5, ge=1)
    """Newton-Schulz iterations; 5 in GLM-4.5 and in the reference implementation."""

    iteration_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the iterations. bfloat16 is the reference implementation's, and takes half of float32's time where
    the device multiplies it (GPUs, CPUs with AVX512-BF16 or AMX); elsewhere it takes several times as long. auto takes
    the faster one."""

    muon_roles: tuple[ParameterRole, ...] = MUON_ROLES
    """Parameter roles that Muon steps: matrix, expert or both."""

    adamw_lr: float | None = Field(default=None, ge=0)
    """Learning rate of the AdamW roles; null is `lr`, which `match_rms` makes comparable."""

    role_lr: RoleRates | None = None
    """Learning rates of single roles instead, such as {router: 0.003}: what suits embeddings saturates a router."""

    adamw_betas: tuple[float, float] = (0.9, 0.95)
    """Decays of AdamW's averages; (0.9, 0.95) is the custom for language models since GPT-3."""

    adamw_eps: float = Field(default=1e-8, ge=0)
    """Added to AdamW's denominator; torch's default."""

    split_fused: bool = False
    """Orthogonalise each matrix of a fused tensor by itself, such as gate and up of experts; off, a tensor is one
    matrix, which is what every run before this setting did."""

    @field_validator("muon_roles")
    @classmethod
    def _muon_may_take_them(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        return checked_muon_roles(roles)

    @field_validator("adamw_betas")
    @classmethod
    def _betas_are_decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        return _checked_betas(betas)


class AdamWConfig(Schema):
    """AdamW for all parameters."""

    lr: float = Field(default=3e-4, ge=0)
    """Learning rate; 3e-4 is a safe start for models of tens to hundreds of millions of parameters (GPT-3's range)."""

    role_lr: RoleRates | None = None
    """Learning rates of single roles instead, such as {router: 1e-4}."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decays of the averages; (0.9, 0.95) is the custom for language models since GPT-3."""

    eps: float = Field(default=1e-8, ge=0)
    """Added to the denominator; torch's default."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay; norms, biases and embeddings are left out. 0.1 since GPT-3."""

    @field_validator("betas")
    @classmethod
    def _betas_are_decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        return _checked_betas(betas)


class ConstantConfig(Schema):
    """Constant learning rate."""

    warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the run in which the rate rises linearly from 0."""


class CosineConfig(Schema):
    """Warm-up, then half a cosine."""

    warmup: float = Field(default=0.02, ge=0, le=1)
    """Share of the run in which the rate rises linearly from 0; 1 to 2 percent is the custom."""

    final: float = Field(default=0.1, ge=0, le=1)
    """Factor at the end; a tenth in Chinchilla and GLM-4.5 (2.5e-4 to 2.5e-5)."""


class WarmupStableDecayConfig(Schema):
    """Warm-up, constant, linear decay."""

    warmup: float = Field(default=0.02, ge=0, le=1)
    """Share of the run in which the rate rises linearly from 0; 1 to 2 percent is the custom."""

    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the run in which the rate falls; a fifth matches a tuned cosine (arXiv 2405.18392)."""

    final: float = Field(default=0.0, ge=0, le=1)
    """Factor at the end."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        WarmupStableDecay(self.warmup, self.decay, self.final)
        return self


def _checked_betas(betas: tuple[float, float]) -> tuple[float, float]:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas {betas} are decays: use numbers in [0, 1)")
    return betas
