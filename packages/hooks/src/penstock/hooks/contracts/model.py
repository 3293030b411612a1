"""A language model: what it reads, what it returns, and what it may be besides.

Shape suffixes: B batch, S sequence, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from penstock.hooks.contracts.routing import Router, Routing
from penstock.hooks.contracts.tensors import Tensor
from penstock.hooks.contracts.weights import ParameterRole
from penstock.hooks.problems import Problem, ProblemError


class Prediction(StrEnum):
    """What a model predicts. The settings of an architecture say it (`ArchitectureSettings.predicts`), and so does an
    objective, as a capability of its component: by default it trains the next token. A config whose
    objective and model differ is refused before torch is imported.

    >>> Prediction("masked-lm").text
    'hidden tokens from both sides'
    """

    NEXT_TOKEN = "next-token"
    MASKED = "masked-lm"
    CLASSIFICATION = "classification"
    TAGS = "tags"
    SPANS = "spans"

    @property
    def text(self) -> str:
        return {
            "next-token": "the next token",
            "masked-lm": "hidden tokens from both sides",
            "classification": "a label for each text",
            "tags": "a label for each token",
            "spans": "the first and the last token of an answer",
        }[self]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a language model reads: tokens, and what is known about each position. None: nothing is known.

    `token_BS` int64. `real_BS` bool, False for padding, which no other position attends to, no router routes and no
    loss counts. `document_BS` int64, the document of each position: attention stays inside one. `position_BS` int64,
    the positions that rotary or learned embeddings use; None counts the real positions of each row from 0. `type_BS`
    int64, token types. `expert_BSK` int64, by layer: the experts that a router takes instead of choosing. `encoder`,
    what the encoder of an encoder-decoder model reads.

    A model raises `ProblemError` for a field that it cannot honour (`require_only`); it ignores none. A field of other
    positions than the tokens, and a mask that is not bool, raise it at once.
    """

    token_BS: Tensor
    real_BS: Tensor | None = None
    document_BS: Tensor | None = None
    position_BS: Tensor | None = None
    type_BS: Tensor | None = None
    expert_BSK: Mapping[int, Tensor] | None = None
    encoder: Inputs | None = None

    def __post_init__(self) -> None:
        for name in ("real_BS", "document_BS", "position_BS", "type_BS"):
            if (value := getattr(self, name)) is not None:
                self._require_positions(name, value, mask=name == "real_BS")

    def _require_positions(self, name: str, value: Tensor, *, mask: bool) -> None:
        given, wanted = tuple(value.shape), tuple(self.token_BS.shape)
        if given != wanted:
            what = f"has shape {list(given)}, but the tokens have {list(wanted)}"
            raise ProblemError(Problem("bad-value", what, f"inputs.{name}", "give one value for each token"))
        if mask and not str(value.dtype).endswith("bool"):
            what = f"is {value.dtype}, not bool"
            raise ProblemError(Problem("bad-value", what, f"inputs.{name}", "give True for the positions that count"))

    @classmethod
    def of(cls, given: Inputs | Tensor) -> Inputs:
        """Tokens alone are inputs of which nothing else is known."""
        return given if isinstance(given, Inputs) else cls(given)

    @property
    def known(self) -> tuple[str, ...]:
        """The fields that are given, tokens apart."""
        names = (each.name for each in fields(self) if each.name != "token_BS")
        return tuple(name for name in names if getattr(self, name) is not None)

    def counted(self, mask_BS: Tensor | None) -> Tensor | None:
        """The positions that a loss counts: those of the mask (None: all) that are real. Raises `ProblemError` for a
        mask that is not one of these positions."""
        if mask_BS is not None:
            self._require_positions("mask_BS", mask_BS, mask=True)
        if self.real_BS is None or mask_BS is None:
            return mask_BS if self.real_BS is None else self.real_BS
        return mask_BS & self.real_BS

    def require_only(self, reader: str, *honoured: str) -> None:
        """Raises `ProblemError` that names every given field that `reader` does not honour."""
        beyond = [name for name in self.known if name not in honoured]
        if beyond:
            fix = "leave them out, or take an architecture that reads them"
            raise ProblemError(
                [Problem("unsupported", f"{reader} cannot read `{name}`", "inputs", fix) for name in beyond]
            )


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """`hidden_BSD` after the final norm, and the routing of each mixture-of-experts layer by layer index.

    A routing has a row for each of the B*S positions. Those of padding were never routed: no slot is kept or dropped,
    and weights, logits and scores are 0.
    """

    hidden_BSD: Tensor
    routings: Mapping[int, Routing]


@dataclass(frozen=True, slots=True)
class LossOutput:
    """`loss` scalar: the sum over counted tokens of their negative log-likelihood in nats, with gradient;
    `nll_BS` fp32 per token, detached; and the routings of the pass."""

    loss: Tensor
    nll_BS: Tensor
    routings: Mapping[int, Routing]


class Generative(Protocol):
    """What generation needs of a model; a Tensor stands for `Inputs(token_BS)`."""

    training: bool

    def train(self, mode: bool = True) -> Any: ...

    def __call__(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput: ...

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32; fp64 where the hidden states are."""
        ...

    def new_cache(self, batch: int, capacity: int) -> Any:
        """What a pass over `batch` texts fills in place, for up to `capacity` positions, so that the next pass reads
        the tokens after them alone; it remembers which positions are padding. None: the model keeps no such state."""
        ...


@runtime_checkable
class RewindableCache(Protocol):
    """A cache of `Generative.new_cache` that can forget its newest positions, so that texts which begin alike are read
    one after the other, and their common beginning once."""

    length: int
    """The positions that it holds."""

    def rewind(self, length: int) -> None:
        """Keeps the first `length` positions alone: the next pass has the bits that it would have had then."""
        ...


class Model(Protocol):
    """A `torch.nn.Module` that reads tokens: what every model has, whatever it predicts.

    `vocabulary_size` rows of the embedding; `compute_dtype`, a `torch.dtype` that can be set, is what the layers
    compute in; `routers` by layer index, empty for a dense model. A Tensor stands for `Inputs(token_BS)`.
    """

    vocabulary_size: int
    compute_dtype: Any
    training: bool

    def train(self, mode: bool = True) -> Any: ...

    @property
    def routers(self) -> Mapping[int, Router]: ...

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


class LanguageModel(Generative, Model, Protocol):
    """A `Model` that predicts the next token (`Prediction.NEXT_TOKEN`)."""

    def next_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor | None = None) -> LossOutput:
        """Loss of `target_BS` given `inputs`, over the real positions where `mask_BS` is True (None: all). The others
        may have any target, such as -100, and any hidden state."""
        ...

    def generate(self, inputs: Inputs | Tensor, *, tokens: int, **sampling: Any) -> Tensor:
        """[B, S + tokens] int64. Prompts of unequal length are padded on the left, as `Inputs.real_BS` says."""
        ...


class MaskedLanguageModel(Model, Protocol):
    """An encoder that predicts hidden tokens from both sides (`Prediction.MASKED`). Its architecture does not declare
    `causal`; it generates nothing and keeps no cache."""

    def __call__(self, inputs: Inputs | Tensor) -> ModelOutput: ...

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """[..., V] fp32."""
        ...

    def masked_token_loss(self, inputs: Inputs | Tensor, target_BS: Tensor, mask_BS: Tensor) -> LossOutput:
        """Loss of `target_BS` at the real positions where `mask_BS` is True, and `inputs` hides them."""
        ...


class TaskModel(Model, Protocol):
    """An encoder with the head of a task: `Prediction.CLASSIFICATION`, `TAGS` or `SPANS`. `labels` are how many the
    head tells apart; 2 for spans, the first and the last token."""

    labels: int

    def __call__(self, inputs: Inputs | Tensor) -> ModelOutput: ...

    def task_logits(self, inputs: Inputs | Tensor) -> Tensor:
        """fp32, [B, labels] for a classification, [B, S, labels] for tags and spans."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A model that is a chain of layers. Engines cut its parameters by them, and training recomputes and compiles by
    them."""

    def blocks(self) -> Sequence[Any]:
        """The layers in the order in which they run, each a `torch.nn.Module` that a pass calls as a module and that
        holds no other of them. Empty where the model has none."""
        ...


@runtime_checkable
class Started(Protocol):
    """A model that has something to say of the weights that it starts from, such as a head that its checkpoint lacks.
    Training says it once, before the first step."""

    start_notes: tuple[str, ...]


@runtime_checkable
class Publishable(Protocol):
    """A language model that other software may know in another layout than its checkpoints have.

    An exporter for that software writes `published_config()` and `published_state()` instead of `export_config()` and
    `export_state(materialize=True)`. Both raise `ProblemError` where no published architecture computes the same.
    """

    def published_config(self) -> dict[str, Any]:
        """The `config.json` of a published architecture that computes the same logits."""
        ...

    def published_state(self) -> dict[str, Tensor]:
        """Its tensors, under its names."""
        ...


@runtime_checkable
class PlainHead(Protocol):
    """A language model that can say when its head is one matrix: logits are `hidden_BSD @ head_weight_VD.T` and nothing
    else. `head_weight_VD` is None if the head also has a bias, a scale or a cap."""

    @property
    def head_weight_VD(self) -> Tensor | None: ...


@runtime_checkable
class Decodable(Protocol):
    """A language model that can describe itself to a decoder that is no Python."""

    def decoder_description(self) -> dict[str, Any]:
        """What decoding needs beside the weights, in values of JSON; `{"unsupported": reason}` for a model that has a
        part that the decoder lacks."""
        ...


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
