"""What a sweep measures for each run, rung and cell: the files of `cells/`, `decisions.jsonl` and `sweep.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.rates import FoundRates
from penstock.run.records.record import ABSENT, Record


@dataclass(frozen=True, slots=True)
class RunFigures(Record):
    """The figures of a run that a sweep compares; a dense model has no balance figures.

    `text` is the SHA-256 of the held-out text and `text_bytes` its size; `machine` trained the run.
    """

    bits_per_byte: float
    tokens: int
    seconds: float
    active_parameters: int
    flops: int
    max_violation: float | None = field(default=None, metadata=ABSENT)
    max_violation_worst: float | None = field(default=None, metadata=ABSENT)
    dead_experts: float | None = field(default=None, metadata=ABSENT)
    text: str | None = field(default=None, metadata=ABSENT)
    text_bytes: int | None = field(default=None, metadata=ABSENT)
    machine: str | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class SweptRun(RunFigures):
    """The figures of one run, with its cell, seed and directory."""

    cell: str = ""
    seed: int = 0
    run: str = ""


@dataclass(frozen=True, slots=True)
class RungFigures(Record):
    """A cell on the whole held-out text after `tokens` tokens of a phase, which is "short", "common" (short, at the
    common learning rate), "final" or "all" (a sweep without phases).

    `perplexity` and `loss` (nats) are per token of the cell's `tokenizer`, a hash; `bits_per_byte` compares across
    tokenizers. `text` is the SHA-256 of the held-out text, `seconds` those of training so far, and `machine` trained.
    """

    cell_key: str
    cell: str
    phase: str
    seed: int
    tokens: int
    steps: int
    bits_per_byte: float
    perplexity: float
    loss: float
    text: str
    text_bytes: int
    tokenizer: str
    seconds: float
    machine: str | None


@dataclass(frozen=True, slots=True)
class RungResult(RungFigures):
    """A rung's figures, and the bits of each held-out document in the order of the text. Their bytes, `HeldoutBytes`,
    are the same for all cells with this text, so they stand once in the sweep's `heldout.json`."""

    document_bits: list[float]


@dataclass(frozen=True, slots=True)
class HeldoutBytes(Record):
    """The bytes of each held-out document. A text that is a single document is cut into windows."""

    document_bytes: list[int]


@dataclass(frozen=True, slots=True)
class CellShape(Record):
    """The size of a cell's model, counted without weights. `active_parameters` are those that one token uses, a shared
    one once. `embedding_share` is that of embedding and head in all parameters, and `bytes` are those of the stored
    parameters by format. `flops_per_token` are those of training, a shared weight for each use; 0 in a file of an
    earlier version."""

    parameters: int
    active_parameters: int
    embedding_share: float
    bytes: dict[str, float]
    flops_per_token: int = 0


@dataclass(frozen=True, slots=True)
class Balance(Record):
    """The load of a trained model's experts over all held-out tokens: MaxVio, that of the worst layer, and how many
    experts are dead."""

    max_violation: float | None = field(default=None, metadata=ABSENT)
    max_violation_worst: float | None = field(default=None, metadata=ABSENT)
    dead_experts: float | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class FailedRun(Record):
    """Why a run has no result: `reason` is a sentence, `attempts` how often it was tried. `where` and `fix` are those
    of the problem that ended it, where there was one."""

    reason: str
    attempts: int
    where: str | None = field(default=None, metadata=ABSENT)
    fix: str | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class CellRates(Record):
    """The learning rates that ramps suggest for a cell, and the seconds that they took."""

    found: FoundRates
    seconds: float


@dataclass(frozen=True, slots=True)
class MeasuredRun(Record):
    """What only a trained model shows, measured on `machine` while nothing else of the sweep ran: seconds from a prompt
    of so many tokens to the logits of the next one at batch 1 (median), generated tokens per second after the first
    prompt, peak bytes of the process, and the metrics of the tasks under their own names. `asked` has the tasks with
    their settings, as JSON with sorted keys."""

    latency_128: float
    latency_512: float
    tokens_per_second: float
    peak_memory: int
    machine: str = ""
    tasks: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    asked: list[str] = field(default_factory=lambda: list[str]())


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """What a rule did at a rung of a phase, among the cells that had a result there: `stopped` has a reason for each
    cell that it stopped, and the others went on. The choice of finalists is a decision too, whose rule is "finalists",
    and so is that of the cell that gets a further `seed`, whose rule is "confirm"."""

    phase: str
    tokens: int
    rule: str
    went_on: list[str]
    stopped: dict[str, str]
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class PhaseFigures(Record):
    """A phase: `tokens` of each of its runs, the seeds, the cells that entered it, and the tokens of its rungs, of
    which the last is `tokens`. `schedule` is "own", or "trunk" if the next phase continues its runs."""

    name: str
    tokens: int
    seeds: list[int]
    cells: list[str]
    rungs: list[int]
    schedule: str


@dataclass(frozen=True, slots=True)
class Spent(Record):
    """What a sweep has used, and its caps; a cap that is None is absent. `hours` are those of training, summed over
    runs, and `runs` the runs that began."""

    hours: float
    tokens: int
    runs: int
    hours_cap: float | None = field(default=None, metadata=ABSENT)
    tokens_cap: int | None = field(default=None, metadata=ABSENT)
    runs_cap: int | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class Difference(Record):
    """Mean of the differences to the baseline over `pairs` of runs with one seed and one held-out text, and the half
    width of its interval, None if there are too few pairs for one."""

    mean: float
    half_width: float | None
    pairs: int | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class MissingRun(Record):
    """A run of the grid without figures, and why."""

    cell: str
    seed: int
    why: str


@dataclass(frozen=True, slots=True)
class CellFigures(Record):
    """One cell of the grid: means over its seeds; `difference` in bits per byte, None for the baseline and without
    pairs; `verdict` says what the difference shows.

    `state` is "pending", "running", "finished", "stopped", "failed" or "capped", and `reason` says why. `phase` is the
    last phase with a result; `seeds`, `bits_per_byte` and `tokens` (of a run) are of that phase, and None without any.
    `run_tokens` are those of a whole run of this phase, more than `tokens` if a rule stopped the cell at a rung.
    `settings` has the name of the cell's value on each axis; `overrides` make the sweep's config this cell's.
    `lr` is the learning rate of the layers' matrices, `common_lr` that of the phase "common", for a cell that has one.
    `flops_per_token` are those of training. `bytes` are those of the stored parameters by
    format, `latency_128` the seconds of a forward pass over 128 tokens at batch 1, `peak_memory` bytes, and `tasks`
    scores such as "hellaswag.accuracy"; finalists have them.
    """

    cell: str
    seeds: int
    bits_per_byte: float | None
    max_violation: float | None
    max_violation_worst: float | None
    dead_experts: float | None
    nanoseconds_per_token: float | None
    picoseconds_per_flop: float | None
    active_parameters: int
    difference: Difference | None
    verdict: str = ""
    state: str = "finished"
    reason: str = ""
    key: str = ""
    phase: str = "all"
    tokens: int | None = field(default=None, metadata=ABSENT)
    settings: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    overrides: list[str] = field(default_factory=lambda: list[str]())
    parameters: int | None = field(default=None, metadata=ABSENT)
    embedding_share: float | None = field(default=None, metadata=ABSENT)
    flops_per_token: int | None = field(default=None, metadata=ABSENT)
    bytes: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    lr: float | None = field(default=None, metadata=ABSENT)
    common_lr: float | None = field(default=None, metadata=ABSENT)
    run_tokens: int | None = field(default=None, metadata=ABSENT)
    latency_128: float | None = field(default=None, metadata=ABSENT)
    latency_512: float | None = field(default=None, metadata=ABSENT)
    tokens_per_second: float | None = field(default=None, metadata=ABSENT)
    peak_memory: int | None = field(default=None, metadata=ABSENT)
    tasks: dict[str, float] = field(default_factory=lambda: dict[str, float]())


@dataclass(frozen=True, slots=True)
class SweepFigures(Record):
    """A sweep, finished or in progress. `runs` are those that were trained to their end, `rungs` all results.
    `compared_with` is the cell that differences are from, where the baseline has no run to the end and never will.
    `objectives` are "minimize" or "maximize" by the name of a figure, and `rank_at` names what the report ranks at."""

    baseline: str
    cells: list[CellFigures]
    runs: list[SweptRun]
    missing: list[MissingRun] = field(default_factory=lambda: list[MissingRun]())
    config: str = ""
    objectives: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    rank_at: list[str] = field(default_factory=lambda: list[str]())
    phases: list[PhaseFigures] = field(default_factory=lambda: list[PhaseFigures]())
    decisions: list[Decision] = field(default_factory=lambda: list[Decision]())
    rungs: list[RungFigures] = field(default_factory=lambda: list[RungFigures]())
    spent: Spent | None = field(default=None, metadata=ABSENT)
    compared_with: str | None = field(default=None, metadata=ABSENT)
