"""The types that cross columns. A plugin meets the rest of the house through these and nothing else.

Protocols say what is called; frozen dataclasses say what is passed. Nothing here imports torch: `Tensor` is a
`torch.Tensor` and `Array` a `numpy.ndarray` wherever they appear.

Shape suffixes: B batch, S sequence, T = B*S tokens, K experts a token, E experts, D model width, V vocabulary,
L mixture-of-experts layers, G GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

Tensor: TypeAlias = Any
Array: TypeAlias = Any


class ParameterRole(StrEnum):
    """What a parameter is for; optimizers, quantizers and sharing strategies choose by it."""

    MATRIX = "matrix"  # 2-D weights of attention and dense MLPs
    EXPERT = "expert"  # stacked 3-D weights of routed experts, [E, out, in]
    EMBEDDING = "embedding"
    HEAD = "head"
    ROUTER = "router"
    NORM = "norm"
    BIAS = "bias"


@dataclass(frozen=True, slots=True)
class Routing:
    """What one router decided for T tokens.

    `expert_TK` int64, the chosen experts of each token, all different. `weight_TK` fp32, what each expert's output is
    multiplied by. `logits_TE` fp32, the raw gate output. `score_TE` fp32, the affinity before any selection bias.

    `kept_TK` bool, the slots whose expert computes (None: every slot). A slot that is not kept is dropped or empty; its
    weight is 0 and nothing is computed for it. `dropped_TK` bool tells the two apart (None: no slot is dropped): a
    dropped slot names the expert that the token chose and that turned it away, for want of capacity; an empty one was
    never chosen and names any valid expert. "All different" holds for the slots that are kept or dropped.
    """

    expert_TK: Tensor
    weight_TK: Tensor
    logits_TE: Tensor
    score_TE: Tensor
    kept_TK: Tensor | None = None
    dropped_TK: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """How many assignments each expert computed: `counts_LE` int64, one row a mixture-of-experts layer.

    Counted once a forward pass, from real tokens only. `dropped_LE` int64, those that each expert turned away (None: no
    router drops any): `counts_LE + dropped_LE` is what tokens chose.
    """

    counts_LE: Tensor
    layers: tuple[int, ...]
    dropped_LE: Tensor | None = None


@runtime_checkable
class Router(Protocol):
    """A `torch.nn.Module` that chooses `k` of `experts` experts for each token.

    `e_score_correction_bias` is an fp32 buffer [E] that is added to the scores for the choice alone, or None where the
    router has none; balancers change it.
    """

    experts: int
    k: int
    e_score_correction_bias: Tensor | None

    def __call__(self, hidden_TD: Tensor) -> Routing: ...


@runtime_checkable
class OnlineRouter(Router, Protocol):
    """A router that also learns outside the gradient.

    Its forward passes in training gather what it learns from, where gradients are enabled, and route alike until
    `end_step`, which the training loop calls once an optimizer step. `total` sums a tensor over ranks.
    """

    def end_step(self, total: Callable[[Tensor], Tensor]) -> None: ...


@runtime_checkable
class ReplaceableRouter(Router, Protocol):
    """A router that is no module of ours, but whose choice the model can be made to compute otherwise.

    While `replacing(change)` lasts, the model computes `change(routing)` in the place of each `routing` that the router
    chose, and its output says so; where the two are one object, the bits are those that they are without.
    """

    def replacing(self, change: Callable[[Routing], Routing]) -> AbstractContextManager[None]: ...


class RouterFactory(Protocol):
    """Makes the router of one layer."""

    def __call__(self, layer: int, *, hidden_size: int, experts: int) -> Router: ...


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """What one layer's tokens chose in the whole batch that is to be balanced, of which a forward pass is a part.

    `counts_E` int64, the assignments of each expert before capacity drops any; `tokens`, the counted tokens. Both are
    over all micro-batches and ranks, and without padding.
    """

    counts_E: Tensor
    tokens: int | Tensor


class BalanceLoss(Protocol):
    """A scalar penalty for one layer's routing; the training loop adds `weight * loss` of every layer.

    `mask_T` is True for tokens that count (None: all do). The loop takes the mean of the micro-batches' losses.

    A loss may have an attribute `scope` that asks for more. "counts-first", "buffer" and "lagged": it is called with
    `batch=BatchLoad(...)`, and the loop takes the sum over micro-batches and ranks. The counts are exact for
    "counts-first", those of the step's micro-batches so far for "buffer", and the step's before for "lagged" (all 0 in
    the first). "sequence": it is called with `sequences=B`, the tokens being B sequences of equal length, one after the
    other.
    """

    weight: float

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor: ...


class Balancer(Protocol):
    """Changes a router once an optimizer step, from the load of the whole global batch.

    `counts_E` int64 assignments of the step before capacity drops any; `tokens_seen` trained tokens including this
    step. A balancer that needs more than counts has `statistic(router, routing, mask_T=None)`, a tensor that is summed
    over the micro-batches of a step and over ranks; `update` is then called with `statistic=` that sum.
    """

    def update(self, router: Router, counts_E: Tensor, *, tokens_seen: int) -> None: ...


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """`hidden_BSD` after the final norm, and the routing of each mixture-of-experts layer by layer index."""

    hidden_BSD: Tensor
    routings: Mapping[int, Routing]


@dataclass(frozen=True, slots=True)
class LossOutput:
    """`loss` scalar: the sum over counted tokens of their negative log-likelihood in nats, with gradient;
    `nll_BS` fp32 per token, detached; and the routings of the pass."""

    loss: Tensor
    nll_BS: Tensor
    routings: Mapping[int, Routing]


class LanguageModel(Protocol):
    """A `torch.nn.Module` that predicts the next token.

    `vocabulary_size` rows of the embedding; `routers` by layer index, empty for a dense model.
    """

    vocabulary_size: int

    @property
    def routers(self) -> Mapping[int, Router]: ...

    def __call__(self, token_BS: Tensor, *, cache: Any = None) -> ModelOutput: ...

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32."""
        ...

    def next_token_loss(self, token_BS: Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        """Loss of `target_BS` given `token_BS`, over the positions where `mask_BS` is True (None: all)."""
        ...

    def generate(self, token_BS: Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        """[B, S + tokens] int64."""
        ...

    def parameter_roles(self) -> Mapping[str, ParameterRole]:
        """Role of every name in `named_parameters()`."""
        ...

    def export_config(self) -> dict[str, Any]:
        """The `config.json` of the checkpoint layout (Hugging Face's, where the architecture has one)."""
        ...

    def export_state(self, *, materialize: bool = False) -> dict[str, Tensor]:
        """Tensors under the names of the checkpoint layout. `materialize` applies the quantizer, so that software
        that knows nothing of it computes the same logits."""
        ...

    def load_export_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `export_state()`, bit for bit; raises `ProblemError` that names missing or unknown tensors."""
        ...


@runtime_checkable
class PlainHead(Protocol):
    """A language model that can say when its head is one matrix: logits are `hidden_BSD @ head_weight_VD.T` and nothing
    else. `head_weight_VD` is None where there is more to it, such as a bias, a scale or a cap."""

    @property
    def head_weight_VD(self) -> Tensor | None: ...


@runtime_checkable
class PartlyFrozen(Protocol):
    """A `LanguageModel` that learns beside a `base` which stays as it is, bit for bit.

    Parameters of the base require no gradient. What trains is `trained_state()`, and a checkpoint holds that alone with
    `base_hash()`, because the base is found again where the config says that it comes from. `export_state()` is the
    whole.
    """

    @property
    def base(self) -> LanguageModel: ...

    def base_hash(self) -> str:
        """SHA-256 of the names, shapes and bits of the base."""
        ...

    def trained_state(self) -> dict[str, Tensor]:
        """What training changes, buffers included, under names of its own."""
        ...

    def merged(self) -> LanguageModel:
        """One model that computes the same, for export; raises `ProblemError` where no architecture has it."""
        ...

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `trained_state()`, bit for bit; raises `ProblemError` that names missing or unknown tensors."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A `LanguageModel` that can keep what a second pass over the same tokens would compute again.

    While `remembering()` lasts, parameters stay as they are, and every output and gradient has the bits that it has
    without. What was kept is gone when it ends.
    """

    def remembering(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class SharingPlan:
    """Groups of parameter names that are one tensor; the first name of a group is the one that is stored."""

    groups: tuple[tuple[str, ...], ...] = ()


class SharingStrategy(Protocol):
    """Decides which parameters become one tensor, from their roles and shapes."""

    def plan(self, roles: Mapping[str, ParameterRole], shapes: Mapping[str, tuple[int, ...]]) -> SharingPlan: ...


class Quantizer(Protocol):
    """Simulates a low-precision weight format in training.

    `roles` are the parameters it applies to. `fake_quantize` takes [..., out, in] and returns the same shape on the
    format's grid, with a straight-through gradient; leading dimensions are independent matrices.
    """

    roles: frozenset[ParameterRole]

    def fake_quantize(self, weight: Tensor) -> Tensor: ...

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a weight of this shape takes when stored in the format, scales included."""
        ...


class Schedule(Protocol):
    """Learning-rate factor. `progress` is the trained share of the run in [0, 1]."""

    def __call__(self, progress: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text and where it came from (a path, a URL, "file.jsonl:17")."""

    text: str
    source: str


class Corpus(Protocol):
    """Yields documents in a fixed order; raises `ProblemError` for unreadable or missing input."""

    def documents(self) -> Iterator[Document]: ...


class DocumentFilter(Protocol):
    """Passes on, drops or rewrites documents, lazily and in order."""

    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]: ...


class Tokenizer(Protocol):
    """Text to token ids and back. Byte-level: `decode(encode(text)) == text`."""

    vocabulary_size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Figures of one task. The convention is part of each metric's name; `details` holds what a report may show."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=lambda: dict[str, Any]())


class Task(Protocol):
    """Evaluates a model. `heldout` is the run's own held-out tokens (int array [N]), None where there are none."""

    def run(
        self, model: LanguageModel, tokenizer: Tokenizer, *, heldout: Array | None, sequence_length: int
    ) -> TaskResult: ...


class Placement(Protocol):
    """Chooses the GPU of each expert: `load_E` (any non-negative weights) to `gpu_E` int64 in [0, gpus)."""

    def place(self, load_E: Array, gpus: int) -> Array: ...


class Topology(Protocol):
    """A network. `bytes_GG[i, j]` is what GPU i sends to GPU j; the result is seconds until the last byte arrived."""

    gpus_per_node: int

    def all_to_all_seconds(self, bytes_GG: Array) -> float: ...


class Exporter(Protocol):
    """Writes a model for other software and returns the files written."""

    def export(self, model: LanguageModel, tokenizer_file: Path, folder: Path) -> list[Path]: ...


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
    """Watches training. `on_resume` says which step the run continues from; records after it are void."""

    def on_resume(self, step: int) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_checkpoint(self, step: int) -> None: ...

    def on_end(self) -> None: ...
