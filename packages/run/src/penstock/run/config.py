"""The config of a run: the envelope around the components, in the order in which an experiment is described."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from penstock.hooks.architecture import architecture_settings, layer_routers, unanswered_asks
from penstock.hooks.config import ConfigDocument, OfKind, Schema, read_config, validate
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry

ArchitectureChoice: TypeAlias = Annotated[Choice, OfKind("architecture")]
CorpusChoice: TypeAlias = Annotated[Choice, OfKind("corpus")]
EngineChoice: TypeAlias = Annotated[Choice, OfKind("engine")]
FilterChoice: TypeAlias = Annotated[Choice, OfKind("filter")]
ObjectiveChoice: TypeAlias = Annotated[Choice, OfKind("objective")]
ObserverChoice: TypeAlias = Annotated[Choice, OfKind("observer")]
OptimizerChoice: TypeAlias = Annotated[Choice, OfKind("optimizer")]
PlacementChoice: TypeAlias = Annotated[Choice, OfKind("placement")]
ScheduleChoice: TypeAlias = Annotated[Choice, OfKind("schedule")]
TaskChoice: TypeAlias = Annotated[Choice, OfKind("task")]
TopologyChoice: TypeAlias = Annotated[Choice, OfKind("topology")]
TrackerChoice: TypeAlias = Annotated[Choice, OfKind("tracker")]


class OnResume(Enum):
    """What a resumed run may do to a field; a field without a mark changes only where the user says so."""

    FREE = "the result is the same, rounding aside"
    FIXED = "with another value it is another run: other data, or another meaning of a step"
    SAME_COMPONENT = "as without a mark, but the checkpoint holds the state of this component and no other"


def _use(name: str) -> Any:
    """A component as a default: validated as if it had been written, so the value of the field is a `Choice`."""
    return {"use": name}


class TokenizerSettings(Schema):
    """The byte-level BPE tokenizer that is trained on the corpus, or an existing one."""

    file: Path | None = None
    """An existing tokenizer to use instead: a tokenizer.json, a folder that holds one (such as the one that
    model.pretrained names), or a llama2.c .bin. The vocabulary is then the file's, and nothing is trained."""
    vocab_size: int = Field(default=4096, ge=300)
    """Tokens, the 256 bytes and the specials included. 4,096 keeps the head of a small model small."""
    sample_bytes: int = Field(default=4_000_000, gt=0)
    """How much text the tokenizer is trained on, spread over the corpus."""


class DataSettings(Schema):
    """Text, and how it becomes sequences of tokens."""

    corpus: CorpusChoice
    """Where the text comes from."""
    filters: list[FilterChoice] = [_use("exact-dedup")]
    """Stages between corpus and tokenizer, in order."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The tokenizer."""
    sequence_length: int = Field(default=256, ge=2)
    """Tokens of a training sequence."""
    heldout_share: float = Field(default=0.05, gt=0, lt=1)
    """Share of the documents that is never trained on."""


class TrainSettings(Schema):
    """How the model is trained."""

    tokens: int = Field(gt=0)
    """Tokens to train on; rounded up to whole steps."""
    batch_size: Annotated[int, OnResume.FIXED] = Field(default=16, gt=0)
    """Sequences of an optimizer step, over all ranks and micro-batches."""
    micro_batch_size: Annotated[int | None, OnResume.FREE] = Field(default=None, gt=0)
    """Sequences of one forward pass; null takes a rank's share of the batch at once."""
    objective: ObjectiveChoice = _use("next-token")
    """What is minimised, and which batches it is measured on."""
    engine: Annotated[EngineChoice, OnResume.FREE] = _use("local")
    """Who holds the model and computes gradients: one process, or several as ranks that torchrun starts."""
    optimizer: Annotated[OptimizerChoice, OnResume.SAME_COMPONENT] = _use("muon")
    """What turns gradients into steps."""
    schedule: ScheduleChoice = _use("cosine")
    """The learning-rate factor over the run."""
    gradient_clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient; null never clips."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """What the layers compute in; parameters and optimizer state are fp32 either way."""
    device: Annotated[str, OnResume.FREE] = "auto"
    """A torch device; auto takes a GPU where there is one."""
    evaluate_every: Annotated[int | None, OnResume.FREE] = Field(default=50, gt=0)
    """Steps between held-out evaluations; null evaluates at the end alone."""
    evaluate_tokens: Annotated[int, OnResume.FREE] = Field(default=16_384, gt=0)
    """Held-out tokens of a periodic evaluation."""
    checkpoint_every: Annotated[int, OnResume.FREE] = Field(default=100, gt=0)
    """Steps between checkpoints; one more is written at the end."""
    keep_checkpoints: Annotated[int, OnResume.FREE] = Field(default=2, gt=0)
    """How many checkpoints stay; 2 leaves one to fall back on."""
    trackers: Annotated[list[TrackerChoice], OnResume.FREE] = [_use("jsonl"), _use("tensorboard")]
    """Where metrics go."""
    observers: Annotated[list[ObserverChoice], OnResume.FREE] = [_use("load-trace")]
    """What else watches training."""

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> TrainSettings:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) is not a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self

    @property
    def micro_batches(self) -> int:
        return self.batch_size // (self.micro_batch_size or self.batch_size)


class EvaluateSettings(Schema):
    """What is measured after training."""

    tasks: list[TaskChoice] = [_use("heldout")]
    """Tasks to run."""
    prompts: list[str] = ["def ", "import ", "class ", '"""Return ']
    """Starts of the samples that are shown."""
    sample_tokens: int = Field(default=96, gt=0)
    """Tokens of each sample."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature; 0 is greedy."""


class SimulateSettings(Schema):
    """The network that expert parallelism is predicted on."""

    topology: TopologyChoice | None = None
    """The network; null is `two-level`, where penstock-netsim is installed."""
    placement: PlacementChoice | None = None
    """Which GPU holds which expert; null is `contiguous`."""
    gpus: list[int] = [8, 16, 32, 64, 128, 256]
    """Degrees of expert parallelism."""
    tokens_per_gpu: int = Field(default=4096, gt=0)
    """Tokens that each GPU dispatches in one step."""
    hidden_size: int | None = Field(default=None, gt=0)
    """Width of a token on the wire; null takes the model's own."""


class RunConfig(Schema):
    """One experiment."""

    name: Annotated[str, OnResume.FIXED] = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the folder of its runs."""
    seed: Annotated[int, OnResume.FIXED] = Field(default=0, ge=0, lt=2**63)
    """Decides initial weights, data order and splits."""
    data: Annotated[DataSettings, OnResume.FIXED]
    """Text."""
    model: Annotated[ArchitectureChoice, OnResume.SAME_COMPONENT]
    """The language model and the components inside it."""
    train: TrainSettings
    """Training."""
    evaluate: Annotated[EvaluateSettings, OnResume.FREE] = Field(default={}, validate_default=True)
    """Evaluation after training."""
    simulate: Annotated[SimulateSettings, OnResume.FREE] = Field(default={}, validate_default=True)
    """Network prediction."""

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults included, with canonical component ids."""
        return self.model_dump(mode="json")

    def data_settings(self) -> dict[str, Any]:
        """What prepared data depends on, and nothing else."""
        return {"seed": self.seed, **self.resolved()["data"]}


def digest(value: Any) -> str:
    """Eight hex digits that stand for a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def load_run_config(path: Path, overrides: Sequence[str], registry: Registry) -> tuple[RunConfig, ConfigDocument]:
    """Reads and validates a run config; raises one `ProblemError` with everything that is wrong with it."""
    config, document = read_run_config(path, overrides, registry)
    check_positions(config, document)
    return config, document


def read_run_config(path: Path, overrides: Sequence[str], registry: Registry) -> tuple[RunConfig, ConfigDocument]:
    """The same for the config of a run that exists, which may be from before the length of sequences was checked."""
    document = read_config(path, overrides)
    config = validate(RunConfig, document, registry)
    check_layers(config, document)
    check_vocabulary(config, document)
    return config, document


def check_vocabulary(config: RunConfig, document: ConfigDocument) -> None:
    """Raises `ProblemError` where the tokenizer may make tokens that the model has no embedding for."""
    embeddings = architecture_settings(config.model).vocab_size
    tokens = config.data.tokenizer.vocab_size
    if config.data.tokenizer.file is None and embeddings is not None and embeddings < tokens:
        what = f"the model has {embeddings} embeddings, and data.tokenizer.vocab_size is {tokens}"
        where = document.where(("model", "vocab_size"))
        raise ProblemError(Problem("vocabulary-mismatch", what, where, "leave it out, or make it as large"))


def check_positions(config: RunConfig, document: ConfigDocument) -> None:
    """Raises `ProblemError` where sequences are longer than the architecture says that it can read."""
    positions, length = architecture_settings(config.model).max_positions, config.data.sequence_length
    if positions is not None and length > positions:
        what = f"sequences have {length} tokens, and the model reads {positions} positions"
        where = document.where(("data", "sequence_length"))
        raise ProblemError(Problem("bad-value", what, where, "shorten them, or give the model more positions"))


def check_layers(config: RunConfig, document: ConfigDocument) -> None:
    """Per-layer composition: raises `ProblemError` with every conflict and every router that the architecture cannot
    serve, each with the line that it is written on."""
    try:
        settings = architecture_settings(config.model)
        layer_routers(settings, settings.expert_layers)
        if problems := unanswered_asks(config.model):
            raise ProblemError(problems)
    except ProblemError as error:
        raise ProblemError(
            [replace(problem, where=document.where(_location(problem.where))) for problem in error.problems],
            error.exit_code,
        ) from None


def _location(path: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in (path or "model").split("."))
