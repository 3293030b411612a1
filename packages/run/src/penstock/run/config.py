"""The config of a run: the envelope around the components, in the order in which an experiment is described."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, PrivateAttr, field_validator

from penstock.hooks.config import ConfigDocument, OfKind, OnResume, Schema, apply_overrides, read_config, validate
from penstock.hooks.inputs import InputPath
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.run import checks
from penstock.run.planning import with_planned_sizes
from penstock.run.sections import installed_sections, missing_section, with_sections

RESOLVED = "config.resolved.yaml"
"""In a run directory: every value of the run's config."""

# Types of devices that torch trains on; "privateuseone" and "npu" stand for those that packages add.
DEVICES = ("auto", "cpu", "cuda", "hpu", "mps", "mtia", "npu", "privateuseone", "xla", "xpu")

ArchitectureChoice: TypeAlias = Annotated[Choice, OfKind("architecture")]
CorpusChoice: TypeAlias = Annotated[Choice, OfKind("corpus")]
EngineChoice: TypeAlias = Annotated[Choice, OfKind("engine")]
FilterChoice: TypeAlias = Annotated[Choice, OfKind("filter")]
ObjectiveChoice: TypeAlias = Annotated[Choice, OfKind("objective")]
ObserverChoice: TypeAlias = Annotated[Choice, OfKind("observer")]
OptimizerChoice: TypeAlias = Annotated[Choice, OfKind("optimizer")]
ScheduleChoice: TypeAlias = Annotated[Choice, OfKind("schedule")]
TrackerChoice: TypeAlias = Annotated[Choice, OfKind("tracker")]


def _use(name: str) -> Any:
    """A component as a default: validated as if it had been written, so the value of the field is a `Choice`."""
    return {"use": name}


class TokenizerSettings(Schema):
    """A byte-level BPE tokenizer trained on the corpus, or an existing tokenizer."""

    file: InputPath | None = None
    """An existing tokenizer to use instead: a tokenizer.json, a folder that holds one (such as the
    folder that model.pretrained names), or a llama2.c .bin. The vocabulary is then the file's, and no tokenizer is
    trained."""
    vocab_size: int = Field(default=4096, ge=300)
    """Vocabulary size, including the 256 bytes and the special tokens. 4,096 keeps the head of a small model small."""
    sample_bytes: int = Field(default=4_000_000, gt=0)
    """Amount of text that the tokenizer is trained on, sampled across the corpus."""


class DataSettings(Schema):
    """The text, and how it becomes token sequences."""

    corpus: CorpusChoice
    """The source of the text."""
    filters: list[FilterChoice] = [_use("exact-dedup")]
    """Filters applied to the documents before tokenization, in order."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The tokenizer to train or load."""
    sequence_length: int = Field(default=256, ge=2)
    """Tokens per training sequence."""
    heldout_share: float = Field(default=0.05, gt=0, lt=1)
    """Fraction of the documents held out from training; of a single document, the fraction at its end."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the held-out split and of the tokenizer's sample. It is not the run's seed, so runs with other seeds
    share their data."""


class TrainSettings(Schema):
    """How the model is trained."""

    tokens: int = Field(gt=0)
    """Tokens to train on, rounded up to whole steps of batch_size times data.sequence_length tokens. The padding of an
    objective that reads lines counts towards it, because the number of steps is known before any line is read; the
    tokens that are logged and reported are without padding."""
    batch_size: Annotated[int, OnResume.FIXED] = Field(default=16, gt=0)
    """Sequences per optimizer step, over all ranks and micro-batches."""
    micro_batch_size: Annotated[int | None, OnResume.FREE] = Field(default=None, gt=0)
    """Sequences per forward pass; null processes a rank's whole share of the batch at once."""
    objective: ObjectiveChoice = _use("next-token")
    """The training objective and the source of its batches."""
    engine: Annotated[EngineChoice, OnResume.FREE] = _use("local")
    """The training engine: one process, or several ranks (`penstock train --ranks N`, or torchrun)."""
    optimizer: Annotated[OptimizerChoice, OnResume.SAME_COMPONENT] = _use("muon")
    """The optimizer."""
    schedule: ScheduleChoice = _use("cosine")
    """The learning-rate schedule, a factor on the peak learning rate over the run."""
    gradient_clip: float | None = Field(default=1.0, gt=0)
    """Gradient norm to clip at; null disables clipping."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Compute dtype of the layers; parameters and optimizer state are always fp32."""
    activation_checkpointing: Annotated[Literal["none", "selective", "full"], OnResume.FREE] = "none"
    """What the layers compute again in the backward pass, to save memory; the bits are the same. `selective`:
    everything but matrix products and attention. `full`: everything, so that a layer keeps only its input."""
    compile_layers: bool = False
    """Whether to compile the layers with torch.compile. It changes bits by rounding, and the first step takes up to
    minutes. On a CPU it is no faster."""
    device: Annotated[str, OnResume.FREE] = "auto"
    """A torch device; auto uses a GPU if one is available."""
    evaluate_every: Annotated[int | None, OnResume.FREE] = Field(default=50, gt=0)
    """Steps between held-out evaluations; null evaluates only at the end."""
    evaluate_tokens: Annotated[int, OnResume.FREE] = Field(default=16_384, gt=0)
    """Held-out tokens per periodic evaluation."""
    checkpoint_every: Annotated[int, OnResume.FREE] = Field(default=100, gt=0)
    """Steps between checkpoints; a final one is always written at the end."""
    checkpoint_async: Annotated[bool, OnResume.FREE] = False
    """Whether training goes on while a checkpoint is written, from a copy that takes as much memory as the model and
    the optimizer state. One that is due before the last is written waits for it; the final one always does."""
    keep_checkpoints: Annotated[int, OnResume.FREE] = Field(default=2, gt=0)
    """Number of checkpoints to keep; 2 leaves one to fall back on if the newest is damaged."""
    trackers: Annotated[list[TrackerChoice], OnResume.FREE] = [_use("jsonl"), _use("tensorboard")]
    """Trackers that receive the metrics."""
    observers: Annotated[list[ObserverChoice], OnResume.FREE] = [_use("load-trace")]
    """Observers of training, such as the recorder of expert load."""

    @field_validator("device")
    @classmethod
    def _is_a_device_to_train_on(cls, device: str) -> str:
        kind, colon, index = device.partition(":")
        if kind not in DEVICES:
            raise ValueError(f"no type of device to train on: use one of {', '.join(DEVICES)}")
        if colon and not index.isdecimal():
            raise ValueError("write the number of the device after the colon, such as cuda:1")
        return device

    def misfits(self) -> Iterator[tuple[tuple[str], str]]:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            what = f"batch_size ({self.batch_size}) is not a multiple of micro_batch_size ({self.micro_batch_size})"
            yield ("micro_batch_size",), what
        if self.compile_layers and self.activation_checkpointing == "selective":
            what = "selective needs to see the operators of a layer, which compile_layers hides: use full or none"
            yield ("activation_checkpointing",), what

    @property
    def micro_batches(self) -> int:
        return self.batch_size // (self.micro_batch_size or self.batch_size)


class RunConfig(Schema):
    """One experiment. Other apps provide their own sections of the config, as components of kind `section`;
    `load_run_config` adds a field for each."""

    name: Annotated[str, OnResume.FIXED] = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the experiment, and of the folder that holds its runs."""
    seed: Annotated[int, OnResume.FIXED] = Field(default=0, ge=0, lt=2**63)
    """Seed of initial weights and data order."""
    data: Annotated[DataSettings, OnResume.FIXED]
    """Text."""
    model: Annotated[ArchitectureChoice, OnResume.SAME_COMPONENT]
    """The language model and the components inside it."""
    train: TrainSettings
    """Training."""
    _absent: dict[str, Any] = PrivateAttr(default_factory=dict)
    _planned: bool = PrivateAttr(default=False)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A section of an app."""

    @property
    def tokens_per_step(self) -> int:
        """Those that an optimizer step reads, padding included."""
        return self.train.batch_size * self.data.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return math.ceil(self.train.tokens / self.tokens_per_step)

    def held(self) -> list[str]:
        """Names of what the config holds: the fields of every config, and the app sections that it writes."""
        always = RunConfig.model_fields
        return [name for name in type(self).model_fields if name in always or name in self.model_fields_set]

    @property
    def planned(self) -> bool:
        """Whether the model's sizes, its vocabulary among them, come from `model.plan`; False of a resolved config."""
        return self._planned

    def resolved(self) -> dict[str, Any]:
        """Every value that the config holds, including defaults, with canonical component ids; sections of apps that
        are not installed are kept as the run has them."""
        return {**self.model_dump(mode="json", include=set(self.held())), **self._absent}

    def data_settings(self) -> dict[str, Any]:
        """Exactly what the prepared data depends on: every setting of it but the length of sequences."""
        return {name: value for name, value in self.resolved()["data"].items() if name != "sequence_length"}


def digest(value: Any) -> str:
    """Eight hex digits: a hash of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def load_run_config(
    path: Path | ConfigDocument, overrides: Sequence[str], registry: Registry, *, owns: Iterable[str] = ()
) -> tuple[RunConfig, ConfigDocument]:
    """Reads and validates a run config; raises one `ProblemError` with everything that is wrong with it. Whoever reads
    one file with many overrides passes its document, because reading takes most of the time.

    The config holds the sections that it writes and those that the running command `owns`. A section of an app that is
    not installed is a problem that names the package; in the config of a run it is kept as it is.
    """
    return _read(path, overrides, registry, owns, checks.CHECKS)


def read_run_config(
    path: Path, overrides: Sequence[str], registry: Registry, *, owns: Iterable[str] = ()
) -> tuple[RunConfig, ConfigDocument]:
    """Reads the config of an existing run, which may predate some checks."""
    return _read(path, overrides, registry, owns, [check for check in checks.CHECKS if check.earlier_runs])


def changed_run_config(document: ConfigDocument, registry: Registry) -> RunConfig:
    """The config of a new run from the values of an existing one, some of which were changed."""
    return _checked(document, (), registry, (), checks.CHECKS, of_run=True)[0]


def resolved_run_config(resolved: dict[str, Any], where: str, registry: Registry) -> RunConfig:
    """The config of an existing run from its resolved values, which are found at `where`."""
    earlier = [check for check in checks.CHECKS if check.earlier_runs]
    document = ConfigDocument(resolved, {(): where}, where)
    return _checked(document, (), registry, (), earlier, of_run=True)[0]


def _read(
    path: Path | ConfigDocument,
    overrides: Sequence[str],
    registry: Registry,
    owns: Iterable[str],
    checked: Iterable[checks.ConfigCheck],
) -> tuple[RunConfig, ConfigDocument]:
    written = path if isinstance(path, ConfigDocument) else read_config(path)
    return _checked(written, overrides, registry, owns, checked, of_run=Path(written.name).name == RESOLVED)


def _checked(
    written: ConfigDocument,
    overrides: Sequence[str],
    registry: Registry,
    owns: Iterable[str],
    checked: Iterable[checks.ConfigCheck],
    *,
    of_run: bool,
) -> tuple[RunConfig, ConfigDocument]:
    envelope = envelope_of(registry)
    absent: dict[str, Any] = {}
    if of_run:
        written = replace(written, value=with_data_seed(written.value))
        absent = {name: value for name, value in written.value.items() if name not in envelope.model_fields}
    kept = {name: value for name, value in written.value.items() if name not in absent}
    document = apply_overrides(replace(written, value=kept), overrides)
    document = replace(document, value={**document.value, **{name: {} for name in owns if name not in document.value}})
    checked = tuple(checked)
    given = document
    document, unplanned = with_planned_sizes(document, registry)
    config = _validated(envelope, document, registry, checked, unplanned)
    config._absent, config._planned = absent, document is not given
    checks.require(config, document, checked)
    return config, document


def with_data_seed(resolved: dict[str, Any]) -> dict[str, Any]:
    """Every value of a run's config, whose `seed` decided the split too before `data.seed` did."""
    data = resolved.get("data")
    if not isinstance(data, dict) or "seed" in data or "seed" not in resolved:
        return resolved
    return {**resolved, "data": {**data, "seed": resolved["seed"]}}


def envelope_of(registry: Registry) -> type[RunConfig]:
    """The schema of a run config, with a field for the section of each installed app."""
    return with_sections(RunConfig, tuple(installed_sections(registry, RunConfig).items()))


def _validated(
    envelope: type[RunConfig],
    document: ConfigDocument,
    registry: Registry,
    checked: Sequence[checks.ConfigCheck],
    unplanned: Sequence[Problem],
) -> RunConfig:
    """Validates the sections of installed apps, and names the packages that provide the others. `unplanned` are the
    problems of the model's plan."""
    missing = {
        name: problem
        for name in document.value
        if name not in envelope.model_fields
        and (problem := missing_section(name, document.where((name,)), envelope, registry))
    }
    known = {name: value for name, value in document.value.items() if name not in missing}
    problems = [*unplanned, *missing.values()]
    broken = any(problem.code == "broken-plugin" for problem in problems)
    exit_code = ExitCode.PLUGIN if broken else ExitCode.USAGE
    try:
        config = validate(
            envelope,
            replace(document, value=known),
            registry,
            lambda config: checks.found_despite_holes(config, document, checked),
        )
    except ProblemError as error:
        raise ProblemError([*problems, *error.problems], max(exit_code, error.exit_code)) from None
    if problems:
        raise ProblemError(problems, exit_code)
    return config
