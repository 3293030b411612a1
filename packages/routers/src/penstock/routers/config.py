"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from penstock.hooks.config import Schema
from penstock.routers.balancers import rate_steps


class TopKConfig(Schema):
    """How many experts a token visits, and how their outputs are weighted."""

    k: int = Field(default=2, ge=1)
    """Experts a token. 2 suits the small models of a first run (Mixtral's 2 of 8); GLM-4.x takes 8 of 160."""

    normalize: bool = True
    """Let the weights of a token sum to `scale` (GLM-4.x, DeepSeek-V3, Qwen3-MoE do)."""

    scale: float = 1.0
    """Factor on the weights: 1.0 in GLM-4.5-Air, 2.5 in GLM-4.6."""

    groups: int = Field(default=1, ge=1)
    """Equal groups of neighbouring experts that are ranked first; GLM-4.x has 1, DeepSeek-V3 8."""

    groups_kept: int = Field(default=1, ge=1)
    """Groups from which a token may choose; DeepSeek-V3 keeps 4 of its 8."""

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.groups_kept > self.groups:
            raise ValueError(f"groups_kept={self.groups_kept} of groups={self.groups}: keep at most all groups")
        return self


class SwitchLossConfig(Schema):
    """Load-balancing loss."""

    weight: float = Field(default=0.01, ge=0)
    """Factor on the loss, which is 1 for an even load; 0.01 is the Switch Transformer's."""


class ZLossConfig(Schema):
    """Router z-loss."""

    weight: float = Field(default=0.001, ge=0)
    """Factor on the mean squared logsumexp of the logits; 0.001 is ST-MoE's."""


class LossFreeConfig(Schema):
    """Bias by the sign of the load error."""

    rate: float | list[tuple[float, float]] = 0.001
    """Step of the bias, or steps [from_tokens, rate] that ascend from 0, such as [[0, 0.001], [15e12, 0.0]]. 0.001 is
    the best of arXiv 2408.15664: 0.0001 converges slowly, 0.01 oscillates."""

    centred: bool = False
    """Subtract the mean of the update, so that the bias does not drift as a whole; the paper does not."""

    @field_validator("rate")
    @classmethod
    def _rate_is_a_schedule(cls, rate: float | list[tuple[float, float]]) -> float | list[tuple[float, float]]:
        rate_steps(rate)
        return rate
