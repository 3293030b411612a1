"""What measures a model: a task says what to ask and what an answer is worth, and never sees the model.

A runner puts the requests to the model. It owns batches, padding, the cache of answers, resumption and intervals, so
that a task is written once for every model, and no task is slow or wrong in a way of its own.

Shape suffixes: N tokens of a stream, or samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from penstock.hooks.contracts.data import Tokenizer
from penstock.hooks.contracts.model import LanguageModel
from penstock.hooks.contracts.tensors import Array


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


class ChatTemplate(Protocol):
    """Writes a conversation as a model was trained to read it.

    `sha256` says which template it is. With `shots_as_turns`, each example of a task is a question of the user and a
    reply of the assistant; otherwise all examples stand before the question, in one message of the user.
    """

    @property
    def sha256(self) -> str: ...

    @property
    def shots_as_turns(self) -> bool: ...

    def write(self, messages: Sequence[Message]) -> str:
        """The text of the conversation, up to where the assistant's next reply begins. Raises `ProblemError` for a
        conversation that the template refuses, such as one with a system's message."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a text of `write`: special tokens that it spells are those tokens."""
        ...


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a task may know. `heldout` is the run's own held-out tokens (int array [N], any integer type), None where
    the run has none. `sequence_length` is the most tokens that the model reads at once. `shots` is the number of
    examples before each question, None for the task's own number. `limit` is the most items that are read, None for
    all: the runner keeps to it. `seed` decides whatever a task draws. `data` is a folder of local data sets, one
    folder a data set. With `fit_shots`, a task whose examples do not fit takes fewer, and names their number in its
    metrics; otherwise it raises `ProblemError`. A task asks its questions through the template `chat`, if there is
    one. `prompts` are beginnings of texts from the run's config. `sandbox` is how far programs that the model wrote are
    isolated, at least: a task that runs them on a machine with less raises `ProblemError`.
    """

    tokenizer: Tokenizer
    heldout: Array | None
    sequence_length: int
    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    data: Path | None = None
    fit_shots: bool = False
    chat: ChatTemplate | None = None
    prompts: Sequence[str] = ()
    sandbox: Literal["full", "reduced", "none"] = "full"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be asked: a question, a document, a stream of text. `id` is unique in its task and stays the same
    from run to run. `document` is whatever the task needs to ask, `gold` what the right answer is. Items of one
    `group`, such as a subject or the article that questions are about, are alike: an interval draws them together."""

    id: str
    document: Any
    gold: Any = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely is `continuation` after `context`? Both are token ids, and neither is empty. Where both are longer
    than the model reads, the beginning of the context is cut."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True, slots=True)
class Rolling:
    """How likely is each token of `token_N` after the first? The stream is read in windows of `sequence_length` tokens
    that move on by `stride`, None for disjoint windows; each window scores what the one before did not."""

    token_N: Array
    sequence_length: int
    stride: int | None = None


@dataclass(frozen=True, slots=True)
class Generate:
    """How does the model continue `prompt`? At most `tokens` new tokens, up to the first of the texts `stop` or the
    tokenizer's end of text. Where prompt and new tokens are more than the model reads, the beginning of the prompt is
    cut. At `temperature` 0 each token is the likeliest; above, it is drawn from a generator of `seed`, and the answer
    does not depend on what else is asked."""

    prompt: Sequence[int]
    tokens: int
    stop: Sequence[str] = ()
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LikelihoodAnswer:
    """`nll` in nats, summed over the continuation; `likeliest`: each of its tokens is the model's first choice."""

    nll: float
    likeliest: bool


@dataclass(frozen=True, slots=True)
class RollingAnswer:
    """`nll_N` in nats, float64 [N - 1]: of every token after the first."""

    nll_N: Array


@dataclass(frozen=True, slots=True)
class GenerateAnswer:
    """The new `text`, without the stop, and the new `tokens`, up to the end of text: those of the stop are among them,
    and what the model wrote behind it may be."""

    text: str
    tokens: Sequence[int] = ()


Request: TypeAlias = Likelihood | Rolling | Generate
Answer: TypeAlias = LikelihoodAnswer | RollingAnswer | GenerateAnswer


@dataclass(frozen=True, slots=True)
class Interval:
    """How far a metric may be off by chance: `low` to `high`, and its `standard_error`, over so many independent
    `samples`. `method` says how it was found, and at which level."""

    low: float
    high: float
    standard_error: float
    samples: int
    method: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """How a metric comes from the scores: `scale` times the sum of the column `total` over the sum of the column
    `weight` (None: over the number of samples), then exp of it where it is `exponential`, as a perplexity is."""

    total: str
    weight: str | None = None
    scale: float = 1.0
    exponential: bool = False


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Figures of one task. The convention is part of each metric's name; `details` holds what a report may show.
    `intervals` of metrics by name, and `groups`, the metrics of each group of items where there are several, are the
    runner's: a task leaves them empty. `estimates` of metrics by name decide which interval is taken: a metric without
    one is drawn anew from the samples, which is slower and needs more of them."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=lambda: dict[str, Any]())
    intervals: Mapping[str, Interval] = field(default_factory=lambda: dict[str, Interval]())
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: dict[str, Mapping[str, float]]())
    estimates: Mapping[str, Estimate] = field(default_factory=lambda: dict[str, Estimate]())


class Task(Protocol):
    """Says what to ask a model, and what its answers are worth: contract 2. Every method is a function of its
    arguments alone, so that answers can be kept and a run that was killed goes on where it was."""

    def items(self, context: TaskContext) -> Iterable[Item]:
        """What is asked, in a fixed order. No model is loaded yet: raises `ProblemError` for data that are missing or
        damaged, and for what the task does not take, such as a number of shots."""
        ...

    def requests(self, item: Item, context: TaskContext) -> Sequence[Request]:
        """What the model is asked about one item."""
        ...

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        """What the answers to an item's requests, in their order, are worth. One mapping for each independent sample:
        one for a question, one a document for a stream of documents. All samples have the same names."""
        ...

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        """The metrics of all samples: `scores` has a float64 array [N] for each name, one number a sample. The order of
        samples does not matter. It is called again with samples drawn anew, which is how intervals are found."""
        ...


@runtime_checkable
class FollowingUp(Protocol):
    """A task with second questions, about what the model answered, such as how likely it finds its own text."""

    def follow_ups(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Request]:
        """What the model is asked after its answers to the item's `requests`. `score` is given the answers to both, the
        first ones first."""
        ...


class TaskV1(Protocol):
    """A task of contract 1 puts its questions to the model itself, and cannot be resumed."""

    def run(
        self, model: LanguageModel, tokenizer: Tokenizer, *, heldout: Array | None, sequence_length: int
    ) -> TaskResult: ...
