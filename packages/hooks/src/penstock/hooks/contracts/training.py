"""What a training run calls and tells: objectives, engines, schedules, trackers, observers.

Shape suffixes: B batch, S sequence, L mixture-of-experts layers, E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from penstock.hooks.contracts.data import Tokenizer, TokenSource
from penstock.hooks.contracts.model import Inputs, LanguageModel
from penstock.hooks.contracts.routing import Routing
from penstock.hooks.contracts.tensors import Array, Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What an objective makes its batches from.

    `batch_size` sequences of at most `sequence_length` tokens make an optimizer step, over all ranks and micro-batches.
    `heldout_tokens` is how many tokens a held-out evaluation reads. `end_of_text` is the id of the token that ends a
    document, `byte_lengths_V` int64, the bytes of each token.
    """

    train: TokenSource
    heldout: TokenSource
    tokenizer: Tokenizer
    end_of_text: int
    byte_lengths_V: Array
    sequence_length: int
    batch_size: int
    heldout_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one forward pass.

    `target_BS` int64; `counted_BS` bool, True where the target counts (None: everywhere). The objective is a mean over
    units (mostly counted tokens): `units` is how many this batch holds. `text_bytes` are the bytes of text behind the
    counted targets where the loss is their nats, else None. `extra` is what else the objective's loss needs.
    """

    inputs: Inputs
    target_BS: Tensor
    units: int
    counted_BS: Tensor | None = None
    text_bytes: int | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """`loss` scalar with gradient: a sum over the batch's units, divided by nothing. `routings` of the forward pass.
    `measured` holds (sum, weight) by name, scalars without gradient: the log has sum over weight, each added up over
    micro-batches and ranks."""

    loss: Tensor
    routings: Mapping[int, Routing]
    measured: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict[str, tuple[Tensor, Tensor]])


class Objective(Protocol):
    """What training minimises: the batches of a step, and their loss.

    `prepare` comes first. `fingerprint` is the SHA-256 of what it reads beside the run's data, by name: a run continues
    with the same alone. `batches` are rank `rank`'s micro-batches of a step, on the CPU: a pure function of the seed
    and the step, so a run has nothing to save and continues anywhere. The rows of all ranks and parts, in that order,
    are those of one rank and one part. `heldout` yields the same batches each time. `loss` is given a model of the kind
    that the component declares (`Prediction`): a `LanguageModel`, `MaskedLanguageModel` or `TaskModel`.
    """

    def prepare(self, data: TrainingData) -> None: ...

    def fingerprint(self) -> Mapping[str, str]: ...

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]: ...

    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput: ...

    def heldout(self) -> Iterator[Batch]: ...


@runtime_checkable
class ScoredObjective(Protocol):
    """An `Objective` of a task, whose held-out examples are right or wrong, one by one.

    `labels` are what a `TaskModel` tells apart: its head needs as many. `scores` has two tensors [B] by the name of the
    figure, a value and a weight of each row: the figure over any rows is the sum of the values over the sum of the
    weights, and `ObjectiveOutput.measured` holds these sums. The first name is the task's figure. `examples` are all
    held-out rows in the order of their files, so two models are compared example by example.
    """

    @property
    def labels(self) -> Sequence[str]: ...

    def scores(self, model: Any, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]: ...

    def examples(self) -> Iterator[Batch]: ...


class StepModule(Protocol):
    """The `torch.nn.Module` that an engine holds, wraps and calls: a model and its objective. With `routings_only` it
    computes no loss and returns the routings alone, by layer."""

    model: LanguageModel

    def __call__(self, batch: Batch, *, routings_only: bool = False) -> ObjectiveOutput | Mapping[int, Routing]: ...


class Engine(Protocol):
    """Holds the model, computes gradients and takes steps, alone or as one of several ranks.

    A run calls `prepare` once, then for each step `forward` and `backward` of each micro-batch, `clip` and `step`. The
    objective is a sum: gradients add up over micro-batches and ranks. A method that all ranks take part in (`backward`
    with `last`, `total`, `agree`, `barrier`, `share`, `gather`, `save`) is called by all of them in the same order;
    where another rank is gone it raises `ProblemError` instead of waiting. An engine that cuts parameters brings them
    together in `forward`, `routings`, `evaluate`, `step` and `full_state` too: all ranks call these equally often.
    """

    rank: int
    ranks: int
    device: Any

    def prepare(self, module: StepModule, make_optimizer: Callable[[StepModule], Any], schedule: Schedule) -> None:
        """Takes the module, which is on `device` and the same on all ranks. Parameters are cut up or moved first;
        `make_optimizer` then builds a `torch.optim.Optimizer` over what the module holds."""
        ...

    def forward(self, batch: Batch) -> ObjectiveOutput: ...

    def routings(self, batches: Iterable[Batch]) -> Iterator[Mapping[int, Routing]]:
        """Routings of a step's micro-batches before the step itself: without gradients or a trace in buffers, and at
        the end random numbers are where they were, so the passes that follow route alike."""
        ...

    def evaluate(self, batch: Batch) -> ObjectiveOutput:
        """In evaluation mode, without gradients and a trace in random numbers."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradient of a micro-batch's share of the objective; `last` says that the step has no more of them.
        After it every rank's gradients are those of the whole step."""
        ...

    def clip(self, limit: float | None) -> float:
        """The norm of the whole gradient, the same on all ranks, before it is scaled down to `limit` (None: never)."""
        ...

    def step(self, progress: float) -> dict[str, float]:
        """Sets every group's `lr` to `initial_lr` times the schedule's factor, steps, clears gradients; what to log."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks, a new one, of the same dtype."""
        ...

    def agree(self, flag: bool) -> bool:
        """Whether any rank says so."""
        ...

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        ...

    def share(self, value: T) -> T:
        """Rank 0's value, which can be pickled."""
        ...

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank, on all ranks."""
        ...

    def save(self, folder: Path) -> dict[str, str]:
        """Writes what this rank has to keep beside the model's weights to files in `folder`, under names that no other
        rank uses; returns the SHA-256 of each."""
        ...

    def load(self, folder: Path) -> None:
        """Continues from what any number of ranks saved in `folder`. Settings of the optimizer that the config has
        changed since are the config's."""
        ...

    def full_state(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        """While it lasts, the model has its parameters and buffers whole on every rank, and they are yielded by name;
        what is written to them stays. One rank alone can call the model."""
        ...

    def close(self, error: BaseException | None = None) -> None:
        """Leaves the other ranks, which hear of the error that it is left with."""
        ...


class Staged(Protocol):
    """A rank's state as it was at a step, which later steps do not change."""

    def write(self, folder: Path) -> dict[str, str]:
        """Writes this rank's files to `folder`, as `Engine.save` does; returns the SHA-256 of each. It asks no other
        rank, and a thread beside training calls it."""
        ...


@runtime_checkable
class StagingEngine(Engine, Protocol):
    """An engine with the capability `asynchronous`: training goes on while what it keeps is written."""

    def stage(self) -> Staged:
        """A copy of what `save` would write. All ranks call it in the same order; the copy is valid until the next."""
        ...


class Schedule(Protocol):
    """Learning-rate factor. `progress` is the trained share of the run in [0, 1], at the middle of each step: a run of
    4 steps asks for 1/8, 3/8, 5/8 and 7/8, so a factor that is 0 at an end of the run is never used."""

    def __call__(self, progress: float) -> float: ...


@runtime_checkable
class TrunkSchedule(Schedule, Protocol):
    """A schedule that begins alike in runs of all lengths. The checkpoint at the end of that part is kept, so that a
    longer run can continue from it."""

    def in_trunk(self, progress: float) -> bool:
        """Whether the factors up to here are those of every longer run. Once False, it stays False."""
        ...


class Tracker(Protocol):
    """Sink for metrics. `resume` is called before the first `log` of a resumed run: steps after it are void."""

    def resume(self, step: int) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished optimizer step: metrics are plain floats, `counts_LE` an int64 numpy array (L may be 0)."""

    step: int
    tokens_seen: int
    metrics: Mapping[str, float]
    counts_LE: Array
    layers: tuple[int, ...]


class Observer(Protocol):
    """Watches training. `on_resume` says which step the run continues from; records after it are void. Where
    checkpoints are written beside training, a run may continue from before the last step that `on_checkpoint` heard
    of."""

    def on_resume(self, step: int) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_checkpoint(self, step: int) -> None: ...

    def on_end(self) -> None: ...


@runtime_checkable
class StagingObserver(Observer, Protocol):
    """An observer that need not stop training to write. Where checkpoints are written beside training, `stage` takes
    the place of `on_checkpoint`: it copies what it has, and what it returns writes the copy, in another thread, before
    the checkpoint counts."""

    def stage(self, step: int) -> Callable[[], None]: ...


@runtime_checkable
class EvaluationObserver(Observer, Protocol):
    """An `Observer` that is also told the held-out figures of each evaluation, by name: plain floats."""

    def on_evaluation(self, step: int, figures: Mapping[str, float]) -> None: ...
