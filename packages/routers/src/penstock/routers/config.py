"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from penstock.hooks.architecture import RouterSettings
from penstock.hooks.config import Schema
from penstock.routers.balancers import rate_steps


class TopKConfig(RouterSettings):
    """How many experts a token visits, and how their outputs are weighted."""

    score_function: ClassVar[str | None] = None

    k: int = Field(default=2, ge=1)
    """Experts per token. 2 suits small first models (Mixtral has 2 of 8); GLM-4.x has 8 of 160."""

    normalize: bool = True
    """Make the weights of a token sum to `scale` (as in GLM-4.x, DeepSeek-V3 and Qwen3-MoE). With k = 1 a trained
    router needs false: its only weight would be constant, and without a gradient."""

    scale: float = 1.0
    """Factor on the weights: 1.0 in GLM-4.5-Air, 2.5 in GLM-4.6."""

    groups: int = Field(default=1, ge=1)
    """Equal groups of neighbouring experts that are ranked first; GLM-4.x has 1, DeepSeek-V3 8."""

    groups_kept: int = Field(default=1, ge=1)
    """Groups from which a token may choose experts; DeepSeek-V3 keeps 4 of 8."""

    temperature: float = Field(default=1.0, ge=0.001)
    """Scores are computed from logits / temperature: below 1 sharper, above 1 more even. Published models use 1.0."""

    noise: float = Field(default=0.0, ge=0)
    """Gumbel noise on the logits in training, only for the choice of experts, so that other experts are explored too:
    1.0 with softmax scores draws experts from the softmax, 0 is off."""

    noise_seed: int = 0
    """Seed of the noise. It depends only on this seed and the token's logits, so a resumed run needs no state."""

    capacity: float | None = Field(default=None, gt=0)
    """Tokens that an expert takes per batch, as a multiple of the even share. Later tokens are dropped, so a token's
    routing depends on earlier tokens, and evaluation reads one text at a time. null drops none, as in most models since
    DeepSeek-V3; the Switch Transformer used 1.25."""

    def misfits(self) -> Iterator[tuple[tuple[str], str]]:
        if self.groups_kept > self.groups:
            yield ("groups_kept",), f"groups_kept={self.groups_kept} of groups={self.groups}: keep at most all groups"

    def misfits_among(self, experts: int) -> Iterator[tuple[str, str]]:
        size, rest = divmod(experts, self.groups)
        if rest:
            yield "groups", f"groups = {self.groups} do not divide the {experts} experts of a layer"
        elif self.groups > 1 and size < 2:
            yield "groups", f"{self.groups} groups of {experts} experts are of one each, but a group needs two"
        elif self.k > self.groups_kept * size:
            kept = f"groups_kept = {self.groups_kept} leaves {self.groups_kept * size} experts to choose from"
            yield "groups_kept", f"{kept}, but k is {self.k}"


class SigmoidTopKConfig(TopKConfig):
    """Sigmoid scores of one matrix."""

    score_function: ClassVar[str | None] = "sigmoid"


class SoftmaxTopKConfig(TopKConfig):
    """Softmax scores of one matrix."""

    score_function: ClassVar[str | None] = "softmax"


class ChoiceConfig(Schema):
    """Settings of every router with scores."""

    score_function: ClassVar[str | None] = None

    k: int = Field(default=2, ge=1)
    """Experts per token."""

    normalize: bool = True
    """Make the weights of a token sum to `scale`."""

    scale: float = 1.0
    """Factor on the weights."""

    temperature: float = Field(default=1.0, ge=0.001)
    """Scores are computed from logits / temperature: below 1 sharper, above 1 more even."""


class SinkhornConfig(ChoiceConfig):
    """Top-k of a balanced plan."""

    score_function: ClassVar[str | None] = "softmax"  # in evaluation

    iterations: int = Field(default=8, ge=1)
    """Rounds of the Sinkhorn iteration in training; 8 rounds bring the columns of the plan within 1 % of even."""


class ClusterConfig(ChoiceConfig):
    """Nearest centroids."""

    rate: float = Field(default=0.05, ge=0, le=1)
    """Fraction by which a centroid moves to the mean of its hidden states per step; 0.05 forgets half in 14 steps."""


class UnlearnedConfig(Schema):
    """Settings of the routers that learn nothing."""

    score_function: ClassVar[str | None] = None

    k: int = Field(default=2, ge=1)
    """Experts per token."""

    scale: float = 1.0
    """Sum of the weights of a token; every expert of a token has the same weight."""


class RandomConfig(UnlearnedConfig):
    """Experts drawn at random."""

    seed: int = 0
    """A different seed draws different experts."""


class TokenHashConfig(UnlearnedConfig):
    """Experts by the token's id."""

    k: int = Field(default=1, ge=1)
    """Experts per token; the published router uses 1."""

    seed: int = 0
    """A different seed draws different experts for every id."""


class HashConfig(UnlearnedConfig):
    """Experts by locality-sensitive hashing."""

    planes: int = Field(default=8, ge=1, le=32)
    """Random planes. 8 planes make 256 buckets: enough to spread over 8 experts, and few enough that similar states
    share one."""


class SwitchLossConfig(Schema):
    """Load-balancing loss."""

    weight: float = Field(default=0.01, ge=0)
    """Factor on the loss, which is 1 for an even load; the Switch Transformer uses 0.01."""


class SequenceLossConfig(Schema):
    """Load balance of each sequence."""

    weight: float = Field(default=0.0001, ge=0)
    """Factor on the loss, which is 1 for an even load; DeepSeek-V3 and GLM-4.5 use 0.0001."""


class GlobalLossConfig(Schema):
    """Load balance of the whole batch of an optimizer step."""

    weight: float = Field(default=0.01, ge=0)
    """Factor on the loss; the Switch Transformer uses 0.01 for a loss that is 1 for an even load."""

    counts: Literal["counts-first", "buffer", "lagged"] = "counts-first"
    """Where the batch's counts come from. "counts-first" is exact; it takes an extra pass without gradients if a step
    has several micro-batches. "buffer" uses the micro-batches so far, "lagged" the previous step."""


class ZLossConfig(Schema):
    """Router z-loss."""

    weight: float = Field(default=0.001, ge=0)
    """Factor on the mean squared logsumexp of the logits; ST-MoE uses 0.001."""


class LossFreeConfig(Schema):
    """Bias by the sign of the load error."""

    rate: float | list[tuple[float, float]] = 0.001
    """Step size of the bias, or pairs [from_tokens, rate] that ascend from 0, such as [[0, 0.001], [15e12, 0.0]]. 0.001
    is the best of arXiv 2408.15664: 0.0001 converges slowly, 0.01 oscillates."""

    centred: bool = False
    """Subtract the mean of the update, so that the bias does not drift as a whole; the paper does not."""

    step: Literal["sign", "magnitude"] = "sign"
    """How far the bias moves: by the sign of the load error, or by the error in units of the mean load. The paper found
    both equally good, and the sign less sensitive to the rate."""

    @field_validator("rate")
    @classmethod
    def _rate_is_a_schedule(cls, rate: float | list[tuple[float, float]]) -> float | list[tuple[float, float]]:
        rate_steps(rate)
        return rate
