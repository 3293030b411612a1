"""A run's model from an artifact: its config and tokenizer, its weights, and the data that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.contracts import ParameterLayout, SharingPlan
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Registry
from penstock.quant158.artifact import Artifact
from penstock.run import messages
from penstock.run.config import RunConfig, resolved_run_config
from penstock.run.plugin_lock import LOCK, Locked, lock_changes, plugin_lock
from penstock.run.records.data import DataRecord
from penstock.run.records.record import parse_record
from penstock.sharing.plan import share
from penstock.train.compose import Composition, compose_model, pick_device
from penstock.train.data import RECORD, find_recorded
from penstock.train.packed import can_multiply_packed, multiply_packed
from penstock.train.weights import layouts_of

TOKENIZER = "tokenizer.json"
_Lock: TypeAlias = dict[str, list[Locked]]


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
            for line in lock_changes(lock["components"], plugin_lock(self.config)):
                messages.warn(line)
        device = _device(self.config.train.device)
        composition = compose_model(
            self.config,
            self.tokenizer.vocabulary_size,
            device,
            end_of_text=self.tokenizer.end_of_text,
            as_stored=True,
        )
        load_weights(composition, self.artifact, packed=packed and can_multiply_packed(self.config, device))
        composition.module.eval()
        return composition

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


def load_weights(composition: Composition, artifact: Artifact, *, packed: bool = False) -> None:
    """Loads all parameters and buffers of a model that was composed `as_stored`, and ties those that the artifact has
    once. Raises `ProblemError` with every tensor that is missing, unknown or of another shape. `packed`: ternary
    weights are not unpacked; their sites multiply with them as they are."""
    own: dict[str, Tensor] = composition.module.state_dict(keep_vars=True)
    layouts = layouts_of(composition.model)
    stored = {name: _stored_as(name, tensor, layouts.get(name)) for name, tensor in own.items()}
    _check_fit({each: shape for parts in stored.values() for each, (_, shape) in parts.items()}, artifact)
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


def _stored_as(name: str, tensor: Tensor, layout: ParameterLayout | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of an artifact that are a parameter or buffer: for each the matrix and its shape."""
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


def _tied(
    module: nn.Module, stored: dict[str, dict[str, tuple[str, tuple[int, ...]]]], artifact: Artifact
) -> SharingPlan:
    """Parameters all of whose tensors are those of another one."""
    by_tensors = {tuple(parts): name for name, parts in stored.items()}
    groups: dict[str, list[str]] = {}
    for name, _ in module.named_parameters(remove_duplicate=False):
        originals = tuple(artifact.header.aliases.get(each, "") for each in stored[name])
        if (original := by_tensors.get(originals)) is not None:
            groups.setdefault(original, [original]).append(name)
    return SharingPlan(tuple(tuple(names) for names in groups.values()))
