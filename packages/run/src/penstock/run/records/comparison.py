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
class ComparedMetric(Record):
    """A metric of a task for both; the interval is of the difference, the compressed model's less the baseline's.
    `p_value` is that of no difference by `test`, and `adjusted` the same for all metrics that are compared (Holm).
    `only_baseline` and `only_compressed` are the samples that only one of them has right, if samples are right or
    wrong."""

    baseline: float
    compressed: float
    difference: float
    interval: Interval | None
    p_value: float | None = None
    adjusted: float | None = None
    test: str | None = None
    only_baseline: int | None = None
    only_compressed: int | None = None


@dataclass(frozen=True, slots=True)
class ComparedTask(Record):
    """Metrics of a task by name over its `samples`, and those of each group of items, such as a subject."""

    samples: int
    metrics: dict[str, ComparedMetric]
    groups: dict[str, dict[str, ComparedMetric]] = field(default_factory=lambda: dict[str, dict[str, ComparedMetric]]())


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """A baseline and its compressed form on the same text, on `tasks`, or on both. Everything from `task` to `worst` is
    of the text, and empty without one. `loss` is nats a token, `top1_accuracy` the share of tokens
    that are a model's first choice, `top1_agreement` the share at which both have the same first choice, and
    `kl_divergence` KL(baseline || compressed) in nats a token. Text is read in windows of `sequence_length` tokens;
    `samples`, documents or windows, are what intervals are over."""

    baseline: ComparedModel
    compressed: ComparedModel
    times_smaller: float
    task: str = ""
    sequence_length: int = 0
    tokens: int = 0
    bytes: int = 0
    samples: int = 0
    samples_are: str = ""
    loss: PairedFigure | None = None
    bits_per_byte: PairedFigure | None = None
    top1_accuracy: PairedFigure | None = None
    top1_agreement: PairFigure | None = None
    kl_divergence: PairFigure | None = None
    worst: list[ComparedDocument] = field(default_factory=lambda: list[ComparedDocument]())
    seconds: float = 0.0
    tasks: dict[str, ComparedTask] = field(default_factory=lambda: dict[str, ComparedTask]())
