"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from typing import Literal, Self

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

    temperature: float = Field(default=1.0, gt=0)
    """Scores are those of logits / temperature: below 1 sharper, above 1 more even. 1.0 is every published model's."""

    noise: float = Field(default=0.0, ge=0)
    """Gumbel noise on the logits in training, for the choice alone, so that experts that are not the best are tried:
    1.0 with softmax scores draws experts from the softmax, 0 is off."""

    noise_seed: int = 0
    """Seed of the noise, which is a function of it and of the token's logits, and so needs no state to be resumed."""

    capacity: float | None = Field(default=None, gt=0)
    """Times the even share, what an expert takes of a batch; later tokens are dropped, so a token's routing depends on
    those before it. null takes all, as most models since DeepSeek-V3 do; the Switch Transformer had 1.25."""

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.groups_kept > self.groups:
            raise ValueError(f"groups_kept={self.groups_kept} of groups={self.groups}: keep at most all groups")
        return self


class ChoiceConfig(Schema):
    """What every router with scores has."""

    k: int = Field(default=2, ge=1)
    """Experts a token."""

    normalize: bool = True
    """Let the weights of a token sum to `scale`."""

    scale: float = 1.0
    """Factor on the weights."""

    temperature: float = Field(default=1.0, gt=0)
    """Scores are those of logits / temperature: below 1 sharper, above 1 more even."""


class SinkhornConfig(ChoiceConfig):
    """Top-k of a balanced plan."""

    iterations: int = Field(default=8, ge=1)
    """Rounds of the Sinkhorn iteration in training; 8 bring the columns of the plan within 1 % of even."""


class ClusterConfig(ChoiceConfig):
    """Nearest centroids."""

    rate: float = Field(default=0.05, ge=0, le=1)
    """Share of the way to the mean of its hidden states that a centroid moves in a step; 0.05 forgets half in 14."""


class UnlearnedConfig(Schema):
    """What the routers that learn nothing share."""

    k: int = Field(default=2, ge=1)
    """Experts a token."""

    scale: float = 1.0
    """Sum of the weights of a token, of which every expert has the same share."""


class RandomConfig(UnlearnedConfig):
    """Experts drawn at random."""

    seed: int = 0
    """Another seed draws other experts."""


class TokenHashConfig(UnlearnedConfig):
    """Experts by the token's id."""

    k: int = Field(default=1, ge=1)
    """Experts a token; 1 is the published router's."""

    seed: int = 0
    """Another seed draws other experts for every id."""


class HashConfig(UnlearnedConfig):
    """Experts by locality-sensitive hashing."""

    planes: int = Field(default=8, ge=1, le=32)
    """Random planes; 8 make 256 buckets: enough for 8 experts to share them, few enough that neighbours do."""


class SwitchLossConfig(Schema):
    """Load-balancing loss."""

    weight: float = Field(default=0.01, ge=0)
    """Factor on the loss, which is 1 for an even load; 0.01 is the Switch Transformer's."""


class SequenceLossConfig(Schema):
    """Load balance of each sequence."""

    weight: float = Field(default=0.0001, ge=0)
    """Factor on the loss, which is 1 for an even load; 0.0001 is DeepSeek-V3's and GLM-4.5's."""


class GlobalLossConfig(Schema):
    """Load balance of the whole batch of an optimizer step."""

    weight: float = Field(default=0.01, ge=0)
    """Factor on the loss; 0.01 is the Switch Transformer's, for the loss that is 1 for an even load."""

    counts: Literal["counts-first", "buffer", "lagged"] = "counts-first"
    """Where the batch's counts come from: "counts-first" is exact, by a pass without gradients where a step has several
    micro-batches; "buffer" has those of the micro-batches so far, "lagged" those of the step before."""


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

    step: Literal["sign", "magnitude"] = "sign"
    """What the bias moves by: the sign of the load error, or the error in units of the mean load. The paper found both
    as good, and the sign less sensitive to the rate."""

    @field_validator("rate")
    @classmethod
    def _rate_is_a_schedule(cls, rate: float | list[tuple[float, float]]) -> float | list[tuple[float, float]]:
        rate_steps(rate)
        return rate
