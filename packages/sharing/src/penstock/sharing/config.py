"""Schemas of the sharing strategies; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from penstock.hooks.architecture import SharingSettings
from penstock.hooks.config import Schema
from penstock.sharing.parts import ATTENTION, FEED_FORWARD, LayerPart

# What a strategy shares that names no parts.
WEIGHTS = (*ATTENTION, *FEED_FORWARD)


class TiedEmbeddingsConfig(SharingSettings):
    """Settings of `tied-embeddings` (none)."""

    def claims(self) -> Mapping[str, frozenset[int] | None]:
        return {"embedding": None, "head": None}

    @property
    def ties_embeddings(self) -> bool:
        return True


class TiedGainsConfig(SharingSettings):
    """Settings of `tied-gains`."""

    match: list[str] = Field(default=["*"], min_length=1)
    """Matrices to share, as glob patterns over parameter names such as `layers.3.self_attn.q_proj.weight`."""
    interval: int | None = Field(default=None, ge=2)
    """Number of adjacent layers that share one matrix; null shares it across all layers."""

    @property
    def needs_sites(self) -> bool:
        return True

    def claims(self) -> Mapping[str, frozenset[int] | None]:
        """Those of every matrix; which parameters narrower patterns name is known of the built model alone."""
        return dict.fromkeys(WEIGHTS) if "*" in self.match else {}


class PerUse(Schema):
    """What a layer that uses shared weights has of its own."""

    gains: bool = False
    """A factor for each output of each weight, 1 at the start."""
    norms: bool = False
    """An RMSNorm of what the layer returns, with gains of 1 at the start."""
    low_rank: int | None = Field(default=None, ge=1)
    """Rank of a delta for each weight, 0 at the start."""
    loop_embedding: bool = False
    """A vector that is added to the input of the layer, 0 at the start."""

    @property
    def anything(self) -> bool:
        return self.gains or self.norms or self.low_rank is not None or self.loop_embedding


class LayerSharingConfig(SharingSettings):
    """What strategies that share across layers have in common."""

    pattern: Literal["sequential", "alternate", "sparse"] = "sequential"
    """Which layers are one. Of six layers, `sequential` with an interval of 2 makes AABBCC, `alternate` with 2 distinct
    ones ABABAB; `sparse` has `groups`. Without any of these numbers, all layers are one."""
    interval: int | None = Field(default=None, ge=2)
    """Number of adjacent layers that are one; only for `sequential`."""
    distinct: int | None = Field(default=None, ge=1)
    """Number of layers that differ; for `sequential`, instead of `interval`, and for `alternate`."""
    groups: list[list[int]] | None = None
    """Numbers of the layers that are one, by group; layers in none stay their own. Only for `sparse`."""
    norms: bool = False
    """Share the norms that belong to the shared weights too."""
    biases: bool = False
    """Share the biases of the shared weights too."""
    per_use: PerUse | None = None
    """What each layer that uses shared weights has of its own."""

    @property
    def needs_sites(self) -> bool:
        return self.per_use is not None and self.per_use.anything

    @property
    def shared_parts(self) -> tuple[str, ...]:
        return WEIGHTS

    def claims(self) -> Mapping[str, frozenset[int] | None]:
        layers = None if self.groups is None else frozenset(layer for group in self.groups for layer in group)
        return dict.fromkeys(self.shared_parts, layers)

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.pattern == "sparse" and not self.groups:
            yield ("groups",), "`sparse` needs the groups of layers, such as [[0, 3], [1, 2]]"
        if self.pattern != "sparse" and self.groups is not None:
            yield ("groups",), "only `pattern: sparse` has groups"
        if self.pattern != "sequential" and self.interval is not None:
            yield ("interval",), "only `pattern: sequential` has an interval"
        if self.pattern == "sparse" and self.distinct is not None:
            yield ("distinct",), "the groups of `pattern: sparse` say which layers differ"
        if self.interval is not None and self.distinct is not None:
            yield ("distinct",), "`interval` says the same: leave out one of them"
        if self.pattern == "alternate" and self.distinct is None:
            yield ("distinct",), "`alternate` needs the number of layers that differ"
        yield from self._misfits_of_groups()

    def _misfits_of_groups(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        named: dict[int, int] = {}
        for index, group in enumerate(self.groups or ()):
            if len(set(group)) < 2:
                yield ("groups", index), "a group needs two layers or more"
            elif len(set(group)) < len(group):
                yield ("groups", index), "the group names a layer twice"
            for layer in group:
                if layer < 0:
                    yield ("groups", index), f"layers count from 0, so there is no layer {layer}"
                if named.setdefault(layer, index) != index:
                    yield ("groups", index), f"layer {layer} is in group {named[layer]} already"

    def misfits_among(self, layers: int | None, width: int | None) -> Iterator[tuple[str, str]]:
        unknown = sorted({layer for group in self.groups or () for layer in group if layers and layer >= layers})
        for layer in unknown:
            yield "groups", f"the group names no parameter: the model has no layer {layer}, only 0 to {layers - 1}"  # pyright: ignore[reportOptionalOperand]


class CrossLayerConfig(LayerSharingConfig):
    """Settings of `cross-layer`."""

    parts: list[LayerPart] | None = Field(default=None, min_length=1)
    """Parts of a layer to share: `q`, `k`, `v`, `o`, `gate`, `up`, `down`, `experts`, `router`; null shares all
    matrices and experts."""

    @classmethod
    def example(cls, folder: object) -> Mapping[str, object]:
        own = {"gains": True, "norms": True, "low_rank": 1, "loop_embedding": True}
        return {"pattern": "alternate", "distinct": 2, "per_use": own}

    @property
    def shared_parts(self) -> tuple[str, ...]:
        return WEIGHTS if self.parts is None else tuple(self.parts)


class AttentionSharingConfig(LayerSharingConfig):
    """Settings of `attention`."""

    @property
    def shared_parts(self) -> tuple[str, ...]:
        return ATTENTION


class FeedForwardSharingConfig(LayerSharingConfig):
    """Settings of `feed-forward`."""

    @property
    def shared_parts(self) -> tuple[str, ...]:
        return FEED_FORWARD


class EncoderDecoderConfig(SharingSettings):
    """Settings of `encoder-decoder`."""

    parts: list[LayerPart] | None = Field(default=None, min_length=1)
    """Parts of a layer to share: `q`, `k`, `v`, `o`, `gate`, `up`, `down`; null shares all matrices."""
    norms: bool = False
    """Share the norms that belong to the shared weights too."""
    biases: bool = False
    """Share the biases of the shared weights too."""


class FactorisedEmbeddingConfig(SharingSettings):
    """Settings of `factorised-embedding`."""

    rank: int = Field(ge=1)
    """Width of the table of tokens. ALBERT has 128 for models of 768 to 4,096."""
    positions: bool = False
    """Factorise the learned positions too, where the model has any."""

    @classmethod
    def example(cls, folder: object) -> Mapping[str, object]:
        return {"rank": 2}

    @property
    def needs_sites(self) -> bool:
        return True

    def misfits_among(self, layers: int | None, width: int | None) -> Iterator[tuple[str, str]]:
        if width is not None and self.rank >= width:
            yield "rank", f"rank {self.rank} saves nothing: the model is {width} wide"


class Temperature(Schema):
    """How an assignment goes from soft to hard."""

    start: float = Field(default=1.0, gt=0)
    """Temperature at the beginning."""
    end: float = Field(default=0.05, gt=0)
    """Temperature when the assignment becomes hard."""
    until: float = Field(default=0.5, gt=0, le=1)
    """Share of training after which it is hard. The rest trains the plan that was learned."""

    def at(self, progress: float) -> float:
        """The temperature after a share of training; it falls by equal factors.

        >>> Temperature(start=4.0, end=1.0, until=0.5).at(0.25)
        2.0
        """
        return self.start * (self.end / self.start) ** min(1.0, progress / self.until)

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.end > self.start:
            yield ("end",), "the temperature falls: `end` is at most `start`"


class LearnedSharingConfig(SharingSettings):
    """Settings of `learned-sharing`."""

    budget: int = Field(ge=1)
    """Number of layers that may differ: the parameters of so many are trained and stored."""
    parts: list[LayerPart] | None = Field(default=None, min_length=1)
    """Parts of a layer to share, as of `cross-layer`; null shares all matrices and experts."""
    temperature: Temperature = Temperature()
    """How the soft assignment becomes a hard one."""

    @classmethod
    def example(cls, folder: object) -> Mapping[str, object]:
        return {"budget": 2}

    @property
    def needs_sites(self) -> bool:
        return True

    @property
    def shares_while_training(self) -> bool:
        return True

    def claims(self) -> Mapping[str, frozenset[int] | None]:
        return dict.fromkeys(WEIGHTS if self.parts is None else self.parts, None)

    def misfits_among(self, layers: int | None, width: int | None) -> Iterator[tuple[str, str]]:
        if layers is not None and self.budget >= layers:
            yield "budget", f"a budget of {self.budget} leaves nothing to share: the model has {layers} layers"
