"""What `penstock evaluate A B --compare` measured: `comparison.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.hooks.contracts import Interval
from penstock.run.records.record import Record


@dataclass(frozen=True, slots=True)
class ComparedModel(Record):
    """One of the two. `bytes` are those of `file`: an artifact, or the weights of a checkpoint. `sha256` has the hashes
    of the files that its weights are in, by name."""

    path: str
    checkpoint: str
    architecture: str
    sha256: dict[str, str]
    file: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PairedFigure(Record):
    """A figure of both models; `difference` is the compressed model's less the baseline's, and the interval is its."""

    baseline: float
    compressed: float
    difference: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class PairFigure(Record):
    """A figure of the pair."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class ComparedDocument(Record):
    """A document, or a window of a single one, with bits per byte of both models; `text` is its beginning."""

    name: str
    text: str
    bytes: int
    baseline: float
    compressed: float
    difference: float


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """A baseline and its compressed form on the same text. `loss` is nats a token, `top1_accuracy` the share of tokens
    that are a model's first choice, `top1_agreement` the share at which both have the same first choice, and
    `kl_divergence` KL(baseline || compressed) in nats a token. Text is read in windows of `sequence_length` tokens;
    `samples`, documents or windows, are what intervals are over."""

    baseline: ComparedModel
    compressed: ComparedModel
    times_smaller: float
    task: str
    sequence_length: int
    tokens: int
    bytes: int
    samples: int
    samples_are: str
    loss: PairedFigure
    bits_per_byte: PairedFigure
    top1_accuracy: PairedFigure
    top1_agreement: PairFigure
    kl_divergence: PairFigure
    worst: list[ComparedDocument] = field(default_factory=lambda: list[ComparedDocument]())
    seconds: float = 0.0
