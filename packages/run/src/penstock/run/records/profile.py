"""How a model routes text: `profile.json`, and what `penstock profile TRACE` prints."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.record import ABSENT, Record


@dataclass(frozen=True, slots=True)
class DomainPreference(Record):
    """The share of a domain's tokens that choose each expert, with its 95 % interval `low` to `high`, and the experts
    whose interval is above (`prefers`) or below (`avoids`) the `uniform` k / E."""

    prefers: list[int]
    avoids: list[int]
    share: list[float]
    low: list[float]
    high: list[float]
    uniform: float


@dataclass(frozen=True, slots=True)
class LayerSpecialisation(Record):
    """Bits of information that a layer's experts give about the domain, against a router that ignores it (`null`), and
    against one that gives each token id experts at random (`words`, None if the tokens are unknown)."""

    information_bits: float
    information_bits_null: float
    significant: bool
    verdict: str
    domains: dict[str, DomainPreference]
    information_bits_words: float | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class ExpertPair(Record):
    """Two experts that share tokens, and how much more often than chance."""

    experts: list[int]
    tokens: int
    lift: float


@dataclass(frozen=True, slots=True)
class LayerProfile(Record):
    """Load of one layer over the whole text; MaxVio is max/mean - 1 (arXiv 2408.15664, Eq. 4).

    `specialisation` is known if the trace distinguishes domains, `coactivation` if it has the experts of each token.
    """

    layer: int
    max_violation: float | None = None
    gini: float | None = None
    entropy: float | None = None
    cv: float | None = None
    dead_experts: float | None = None
    max_over_mean: float | None = None
    max_over_min: float | None = None
    variance: float | None = None
    specialisation: LayerSpecialisation | None = field(default=None, metadata=ABSENT)
    coactivation: list[ExpertPair] | None = field(default=None, metadata=ABSENT)
    counts: list[int] | None = None


@dataclass(frozen=True, slots=True)
class LayerPair(Record):
    """Bits of information that the expert in one layer gives about the expert in the next."""

    layers: list[int]
    information_bits: float
    information_bits_null: float


@dataclass(frozen=True, slots=True)
class Profile(Record):
    """Figures of one trace. `k` is one number, or one per layer if they differ.

    The fields after `pairs` are known if a model read text: `max_violation_global` is the mean over layers of MaxVio of
    all tokens together, `max_violation_batch` that of each batch on its own (arXiv 2408.15664, section 4.1); `data` is
    the fingerprint of what was read.
    """

    model: str = ""
    k: int | list[int] | None = None
    assignments: int | None = None
    domains: list[str] = field(default_factory=lambda: list[str]())
    dropped_warm_up: int = 0
    layers: list[LayerProfile] = field(default_factory=lambda: list[LayerProfile]())
    pairs: list[LayerPair] = field(default_factory=lambda: list[LayerPair]())
    split: str | None = field(default=None, metadata=ABSENT)
    tokens: int | None = field(default=None, metadata=ABSENT)
    max_violation_global: float | None = field(default=None, metadata=ABSENT)
    max_violation_batch: float | None = field(default=None, metadata=ABSENT)
    data: str | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class Atlas(Record):
    """Figures of the traces in a file, one per model."""

    models: list[Profile]
