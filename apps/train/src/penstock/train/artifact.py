"""A run's model from an artifact: its config and tokenizer, its weights, and the data that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import LanguageModel, ParameterLayout, SharingPlan
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Registry
from penstock.quant158.artifact import Artifact
from penstock.run import messages
from penstock.run.config import RunConfig, resolved_run_config
from penstock.run.plugin_lock import LOCK, lock_changes, plugin_lock
from penstock.run.records.data import DataRecord
from penstock.run.records.origin import LockedComponent
from penstock.run.records.record import parse_record
from penstock.sharing.plan import share
from penstock.train.compose import Composition, compose_model, pick_device
from penstock.train.data import RECORD, find_recorded
from penstock.train.packed import can_multiply_packed, multiply_packed
from penstock.train.weights import layouts_of, sites_of

TOKENIZER = "tokenizer.json"
_Lock: TypeAlias = dict[str, list[LockedComponent]]


@dataclass(frozen=True, slots=True)
class OpenedArtifact:
    """An artifact of which nothing is loaded yet but the config of its run and the tokenizer."""

    artifact: Artifact
    config: RunConfig
    tokenizer: BpeTokenizer

    @classmethod
    def open(cls, path: Path, registry: Registry) -> OpenedArtifact:
        """Raises `ProblemError` for a file that is not sound, and for one whose components are not installed."""
        artifact = Artifact.open(path)
        config = resolved_run_config(dict(artifact.header.run), f"{path}: run", registry)
        return cls(artifact, config, BpeTokenizer(artifact.file(TOKENIZER), f"{path}: {TOKENIZER}"))

    def compose(self, *, packed: bool = False) -> Composition:
        """The model with the artifact's weights, whose hashes are checked. Warns if the code of a component has changed
        since training, because the model may then compute something else.

        `packed`: ternary weights stay at two bits in memory where the compiled library can multiply with them, which is
        in fp32 on the processor. Results are those of training up to rounding, and have no gradient."""
        self.artifact.verify()
        if LOCK in self.artifact.header.files:
            lock = parse_record(_Lock, self.artifact.file(LOCK), f"{self.artifact.path}: {LOCK}")
            before = [component.to_json() for component in lock.get("components", [])]
            for line in lock_changes(before, plugin_lock(self.config)):
                messages.warn(line)
        self._require_fit()
        device = _device(self.config.train.device)
        composition = self._composed(device)
        load_weights(composition, self.artifact, packed=packed and can_multiply_packed(self.config, device))
        composition.module.eval()
        return composition

    def _composed(self, device: torch.device) -> Composition:
        return compose_model(
            self.config,
            self.tokenizer.vocabulary_size,
            device,
            end_of_text=self.tokenizer.end_of_text,
            as_stored=True,
        )

    def _require_fit(self) -> None:
        """Raises `ProblemError` for a config that is not one of the artifact's tensors: before memory is taken for what
        it says, and before more is built than they can be."""
        with _at_most(self.artifact, self.config), Unfilled():
            composition = self._composed(torch.device("meta"))
        _check_fit(_wanted(_stored_tensors(composition)), self.artifact)

    def dataset(self) -> TokenDataset:
        """The data that the run was trained on, which is found by what it holds: in `data` beside the artifact, of the
        folders above it and of `runs`, or where it was. Raises `ProblemError` if it is nowhere."""
        path = self.artifact.path
        if RECORD not in self.artifact.header.files:
            what, fix = "the artifact does not say what its run was trained on", "give the run itself"
            raise ProblemError(Problem("missing-data", what, str(path), fix))
        record = parse_record(DataRecord, self.artifact.file(RECORD), f"{path}: {RECORD}")
        roots = dict.fromkeys([*path.resolve().parents[:4], Path("runs").resolve()])
        folder = find_recorded(record, [root / "data" for root in roots])
        if folder is None:
            searched = ", ".join(str(root / "data") for root in roots)
            what = f"the data of the artifact's run was not found (searched {searched})"
            fix = f"copy the folder of its data to {path.resolve().parent / 'data'}"
            raise ProblemError(Problem("missing-data", what, str(path), fix))
        dataset = TokenDataset.open(folder, verify=False)
        if dataset.manifest.tokenizer_sha256 != self.tokenizer.hash:
            what, fix = "the artifact has another tokenizer than the data of its run", "export the run again"
            raise ProblemError(Problem("tokenizer-mismatch", what, str(path), fix))
        return dataset


def _device(trained_on: str) -> torch.device:
    """The type of device that the model was trained on, or the best that there is: nobody can edit an artifact."""
    try:
        return pick_device(trained_on)
    except ProblemError:
        return pick_device("auto")


class Unfilled(TorchFunctionMode):
    """Draws no numbers for tensors without memory: the first would make torch import its compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given: dict[str, Any] = kwargs or {}
        if func in (torch.Tensor.normal_, nn.init.normal_):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


# How often a parameter may be registered while a model is built: modules are replaced, and tied.
_REGISTERED_AGAIN = 8
# How many times larger than the artifact a table may be that a strategy takes apart: 64 is rank 12 of a width of 768.
_TAKEN_APART = 64


@contextmanager
def _at_most(artifact: Artifact, config: RunConfig) -> Iterator[None]:
    """Raises `ProblemError` as soon as modules that are built inside have more parameters than an artifact has tensors,
    or one of more numbers than all of them; a strategy of contract 3 may make a table smaller after it is built."""
    built, tensors = 0, _REGISTERED_AGAIN * (len(artifact.names) + 1)
    numbers = sum(math.prod(artifact.tensor(name).shape) for name in artifact.names)
    if any(choice.entry.component.contract >= 3 for choice in architecture_settings(config.model).sharing):
        numbers *= _TAKEN_APART

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal built
        built += 1
        if built > tensors or (parameter is not None and parameter.numel() > numbers):
            what = f"the model of its config is larger than its {len(artifact.names)} tensors"
            raise ProblemError(Problem("bad-artifact", what, str(artifact.path), "export the run again"))

    handle = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def load_weights(composition: Composition, artifact: Artifact, *, packed: bool = False) -> None:
    """Loads all parameters and buffers of a model that was composed `as_stored`, and ties those that the artifact has
    once. Raises `ProblemError` with every tensor that is missing, unknown or of another shape. `packed`: ternary
    weights are not unpacked; their sites multiply with them as they are."""
    own: dict[str, Tensor] = composition.module.state_dict(keep_vars=True)
    layouts = _divided(composition.model)
    stored = _stored_tensors(composition)
    _check_fit(_wanted(stored), artifact)
    for name in multiply_packed(composition, artifact, stored) if packed else ():
        del own[name]
    with torch.no_grad():
        for name, tensor in own.items():
            matrices = {matrix: _weight(artifact, each) for each, (matrix, _) in stored[name].items()}
            if name in layouts:
                layouts[name].write(tensor, matrices)
            else:
                tensor.copy_(matrices["whole"])
    share(cast(nn.Module, composition.model), _tied(composition.module, stored, artifact))


_Matrices: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Tensors of an artifact that are a parameter or buffer: for each the matrix and its shape."""


def _stored_tensors(composition: Composition) -> dict[str, _Matrices]:
    """The tensors of every parameter and buffer of a model."""
    layouts = _divided(composition.model)
    own: dict[str, Tensor] = composition.module.state_dict(keep_vars=True)
    return {name: _stored_as(name, tensor, layouts.get(name)) for name, tensor in own.items()}


def _divided(model: LanguageModel) -> dict[str, ParameterLayout]:
    """The layouts of parameters that an artifact holds matrix by matrix: those with a site."""
    sites = sites_of(model)
    return {name: layout for name, layout in layouts_of(model).items() if name in sites}


def _wanted(stored: dict[str, _Matrices]) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor."""
    return {each: shape for parts in stored.values() for each, (_, shape) in parts.items()}


def _stored_as(name: str, tensor: Tensor, layout: ParameterLayout | None) -> _Matrices:
    if layout is None:
        return {name: ("whole", tuple(tensor.shape))}
    return {f"{name}:{matrix}": (matrix, shape) for matrix, shape in layout.shapes(tuple(tensor.shape)).items()}


def _check_fit(wanted: dict[str, tuple[int, ...]], artifact: Artifact) -> None:
    where, architecture = str(artifact.path), artifact.header.architecture
    problems = [
        Problem("bad-artifact", f"the model of '{architecture}' has a tensor '{name}' that the artifact lacks", where)
        for name in wanted
        if name not in artifact.names
    ]
    for name in artifact.names:
        if name not in wanted:
            what = f"tensor '{name}' is not one of the model of '{architecture}'"
            problems.append(Problem("bad-artifact", what, where, did_you_mean(name, wanted)))
        elif (found := artifact.tensor(name).shape) != wanted[name]:
            what = f"tensor '{name}' has shape {list(found)}, but the model of its config needs {list(wanted[name])}"
            problems.append(Problem("bad-artifact", what, where, "export the run again"))
    if problems:
        raise ProblemError(problems)


def _weight(artifact: Artifact, name: str) -> Tensor:
    weight = artifact.weight(name)
    return torch.from_numpy(weight if weight.flags.writeable else weight.copy())


def _tied(module: nn.Module, stored: dict[str, _Matrices], artifact: Artifact) -> SharingPlan:
    """Parameters all of whose tensors are those of another one."""
    by_tensors = {tuple(parts): name for name, parts in stored.items()}
    groups: dict[str, list[str]] = {}
    for name, _ in module.named_parameters(remove_duplicate=False):
        originals = tuple(artifact.header.aliases.get(each, "") for each in stored[name])
        if (original := by_tensors.get(originals)) is not None:
            groups.setdefault(original, [original]).append(name)
    return SharingPlan(tuple(tuple(names) for names in groups.values()))
