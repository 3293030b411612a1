"""Results of an evaluation: `evaluation.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.hooks.contracts import Interval
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.records.record import ABSENT, Record, parse_record

NO_EVALUATION = "give an evaluation.json, or a file of `penstock evaluate --samples`"


@dataclass(frozen=True, slots=True)
class Provenance(Record):
    """What a task's figures depend on. Hashes are SHA-256: `weights` of the files of the model, by name, `data` of the
    items, None if an item cannot be hashed, `prompts` of all requests, `tokenizer` of its file, and `chat_template` of
    the template that questions went through. `batch_invariant` says that no figure depends on order or batch size.
    `depends_on_batch` names routers that look at other tokens: the model then read one text at a time. `versions` are
    those of packages."""

    weights: dict[str, str]
    data: str | None
    prompts: str
    tokenizer: str
    sequence_length: int
    dtype: str
    batch_size: int
    batch_invariant: bool
    seed: int
    chat_template: str | None = None
    depends_on_batch: list[str] = field(default_factory=lambda: list[str]())
    device: str = ""
    versions: dict[str, str] = field(default_factory=lambda: dict[str, str]())


@dataclass(frozen=True, slots=True)
class Question(Record):
    """An item and what the model answered: the end of the prompt, and for each request what was asked for and the
    answer, as text. `scores` are what the answers are worth."""

    id: str
    prompt: str
    answers: list[str]
    scores: dict[str, float | None]
    group: str = ""
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class ReliabilityBin(Record):
    """Answers whose confidence is from `low` to `high`: their number, mean confidence, and the share that is right."""

    low: float
    high: float
    answers: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Reliability(Record):
    """How far confidence is a probability. `expected_calibration_error` is the mean over answers of the distance
    between the confidence and the share that is right of their bin."""

    expected_calibration_error: float
    bins: list[ReliabilityBin]


@dataclass(frozen=True, slots=True)
class TaskFigures(Record):
    """Results of one task. `intervals` are keyed by metric name; `version` is the task's distribution and contract.
    `groups` and `group_intervals` are the same of each group of items, such as a subject. `worst` has the questions
    that the model answers worst."""

    metrics: dict[str, float | None] = field(default_factory=lambda: dict[str, float | None]())
    details: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    intervals: dict[str, Interval] = field(default_factory=lambda: dict[str, Interval]())
    version: str | None = field(default=None, metadata=ABSENT)
    groups: dict[str, dict[str, float | None]] | None = field(default=None, metadata=ABSENT)
    group_intervals: dict[str, dict[str, Interval]] | None = field(default=None, metadata=ABSENT)
    worst: list[Question] | None = field(default=None, metadata=ABSENT)
    reliability: Reliability | None = field(default=None, metadata=ABSENT)
    provenance: Provenance | None = field(default=None, metadata=ABSENT)

    def why_no_interval(self, metric: str) -> str:
        """Empty for a metric that has an interval, and where the task does not say."""
        reasons = self.details.get("no_interval")
        reason = reasons.get(metric) if isinstance(reasons, dict) else None
        return f"none: {reason}" if isinstance(reason, str) and metric not in self.intervals else ""


@dataclass(frozen=True, slots=True)
class FigureChange(Record):
    """A figure of a task beside the one that was stored; `difference` is the new one less the stored one, and the
    interval is its: of pairs of answers to the same question where `paired`."""

    task: str
    metric: str
    stored: float
    now: float
    difference: float
    interval: Interval | None
    paired: bool


@dataclass(frozen=True, slots=True)
class Against(Record):
    """The figures of an evaluation beside those of an earlier one, in `file`, of `checkpoint`."""

    file: str
    checkpoint: str
    changes: list[FigureChange]


@dataclass(frozen=True, slots=True)
class PublishedFigure(Record):
    """A figure that others published of a model, and ours, None where it was not measured. `agrees` says that ours is
    the published one, rounded to as many digits."""

    metric: str
    published: float
    ours: float | None
    difference: float | None
    agrees: bool | None
    source: str


@dataclass(frozen=True, slots=True)
class HeldoutText(Record):
    """All held-out text of a run: the SHA-256 of its documents one after the other, their bytes and their number."""

    sha256: str
    bytes: int
    documents: int


@dataclass(frozen=True, slots=True)
class Baselines(Record):
    """Bits per byte of models anyone can build, on the same held-out bytes."""

    unigram_bits_per_byte: float | None = None
    bigram_bits_per_byte: float | None = None
    five_gram_bits_per_byte: float | None = None
    xz_bits_per_byte: float | None = None

    @property
    def named(self) -> dict[str, float]:
        """Bits per byte by name, without baselines that were not measured."""
        pairs = (
            ("unigram", self.unigram_bits_per_byte),
            ("bigram", self.bigram_bits_per_byte),
            ("5-gram", self.five_gram_bits_per_byte),
            ("xz", self.xz_bits_per_byte),
        )
        return {name: value for name, value in pairs if value is not None and math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class Sample(Record):
    """How the model continues a prompt."""

    prompt: str = ""
    text: str = ""
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Performance(Record):
    """Generation of one sequence: time to the first token and for each further one, and memory."""

    prompt_tokens: int | None = None
    prefill_ms: float | None = None
    decode_ms_median: float | None = None
    decode_ms_p90: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation(Record):
    """What `penstock evaluate` measured for a checkpoint; the baselines and `heldout_bits_per_byte` are of
    `heldout_text`."""

    checkpoint: str = ""
    tasks: dict[str, TaskFigures] = field(default_factory=lambda: dict[str, TaskFigures]())
    measured: list[str] | None = None
    """Names of the tasks that the last evaluation measured; the others are kept from earlier ones."""
    heldout_bits_per_byte: float | None = None
    baselines: Baselines = field(default_factory=Baselines)
    samples: list[Sample] = field(default_factory=lambda: list[Sample]())
    performance: Performance | None = None
    seconds: float | None = None
    heldout_text: HeldoutText | None = field(default=None, metadata=ABSENT)
    against: Against | None = field(default=None, metadata=ABSENT)
    published: list[PublishedFigure] | None = field(default=None, metadata=ABSENT)


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in an `evaluation.json`, or in the first line of a file of samples. Raises `ProblemError` for any
    other file, and for one without figures."""
    try:
        text = path.read_bytes()
    except OSError as error:
        problem = Problem("unreadable-file", f"cannot be read ({error.strerror})", str(path), NO_EVALUATION)
        raise ProblemError(problem) from error
    held, where = evaluation_line(text.split(b"\n", 1)[0]), f"{path}:1"
    if held is None:
        held, where = text, str(path)
    try:
        parse_json(held)
    except ValueError as error:
        raise ProblemError(Problem("damaged-file", "not an evaluation", str(path), NO_EVALUATION)) from error
    found = parse_record(Evaluation, held, where)
    if not found.tasks:
        raise ProblemError(Problem("damaged-file", "not an evaluation", str(path), NO_EVALUATION))
    return found


def evaluation_line(line: bytes) -> bytes | None:
    """The evaluation in the first line of a file of samples; None for a line of another file."""
    try:
        value = parse_json(line)
    except ValueError:
        return None
    held = value.get("evaluation") if isinstance(value, dict) else None
    return json.dumps(held).encode() if isinstance(held, dict) else None


def heldout_figure(metrics: Mapping[str, float | None]) -> float | None:
    """Bits per byte of all held-out text, the same text that the baselines read; None if only a part was scored."""
    whole = (name for name in metrics if name.startswith("heldout.bits_per_byte@") and "@first-" not in name)
    return next((metrics[name] for name in whole), None)
