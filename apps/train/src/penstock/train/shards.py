"""Tensors that ranks hold in parts: each rank writes its own, and any number of processes reads them.

    shards/{model-00000.safetensors,model-00001.safetensors,...,optimizer-00000.safetensors,...}

A file holds parts of tensors and says at which offset of the whole each one lies, in the form that
`torch.distributed.checkpoint` reads with `HuggingFaceStorageReader`. The default form of that library is not used: its
index is pickled, and a pickle runs code of whoever wrote it. Nothing here is a collective call, so a part can be
written in a thread, and shards are read without a process group.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from penstock.hooks.atomic import sync
from penstock.hooks.problems import Problem, ProblemError, failed

if TYPE_CHECKING:  # importing it takes 2 seconds, which commands on whole checkpoints do not need
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

FOLDER = "shards"


@dataclass(frozen=True, slots=True)
class Part:
    """A block of a tensor, and where in the whole tensor it begins."""

    tensor: Tensor
    offset: tuple[int, ...]


def is_cut(value: object) -> bool:
    """Whether it is a tensor of which each rank holds a part: a `DTensor`."""
    return isinstance(value, Tensor) and hasattr(value, "device_mesh")


def parts_of(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Part]:
    """The parts that a rank has to write of tensors, cut (`DTensor`) or whole: of copies, the first rank's. The parts
    are views; tensors that are one have to be given under one name."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(tensors), is_coordinator=rank == 0)
    parts: dict[str, Part] = {}
    for item in planner.create_local_plan().items:
        name, part = item.index.fqn, cast(Tensor, planner.resolve_data(item))
        if _is_first(tensors[name], rank) and (part.numel() or rank == 0):
            parts[name] = Part(part, tuple(item.index.offset or ()))
    return parts


def write(checkpoint: Path, what: str, rank: int, parts: Mapping[str, Part]) -> dict[str, str]:
    """Writes a rank's parts to a file of its own in the folder `checkpoint`, and flushes it to disk. Returns the
    SHA-256 of the file by its name in that folder. `what` begins the name of the file."""
    path = checkpoint / FOLDER / f"{what}-{rank:05d}.safetensors"
    path.parent.mkdir(exist_ok=True)
    offsets = {name: {"saved_offsets": part.offset} for name, part in parts.items()}
    tensors = {name: part.tensor.contiguous() for name, part in parts.items()}
    save_file(tensors, path, metadata={"format": "pt", "DCP_SHARDING_INFO": json.dumps(offsets, sort_keys=True)})
    sync(path)
    sync(path.parent)
    with path.open("rb") as file:
        return {f"{FOLDER}/{path.name}": hashlib.file_digest(file, "sha256").hexdigest()}


def present(checkpoint: Path) -> bool:
    """Whether the tensors of a checkpoint are stored in parts."""
    return (checkpoint / FOLDER).is_dir()


def read(checkpoint: Path, below: str = "") -> dict[str, Tensor]:
    """The whole tensors, on the CPU, whose names begin with `below`, under the rest of their names. Raises
    `ProblemError` if a file cannot be read or a part is missing."""
    with _damage_named(checkpoint):
        index = _Index(checkpoint)
        tensors = index.tensors_below(below, "cpu")
        index.fill({f"{below}{name}": tensor for name, tensor in tensors.items()})
    return tensors


def read_into(checkpoint: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fills tensors by name; those that are cut, with this rank's part. Raises `ProblemError` that names all tensors
    that are missing or have another shape, and if a file cannot be read or a part is missing."""
    with _damage_named(checkpoint):
        index = _Index(checkpoint)
        if problems := list(index.misfits(tensors)):
            raise ProblemError(problems)
        index.fill(tensors)


def described(checkpoint: Path, below: str = "") -> dict[str, Tensor]:
    """Shapes and dtypes of the tensors that `read` returns: tensors on the device meta."""
    with _damage_named(checkpoint):
        return _Index(checkpoint).tensors_below(below, "meta")


class _Index:
    """What the files of a checkpoint hold; raises `ValueError` if the parts of a tensor do not make a whole."""

    def __init__(self, checkpoint: Path) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        self.reader = HuggingFaceStorageReader(str(checkpoint / FOLDER))
        self.metadata = self.reader.read_metadata()
        kept = self.metadata.state_dict_metadata.items()
        self.tensors = {name: cast("TensorStorageMetadata", each) for name, each in kept}
        for name, each in self.tensors.items():
            if sum(math.prod(part.sizes) for part in each.chunks) != math.prod(each.size):
                raise ValueError(f"the parts of '{name}' do not make a whole")

    def tensors_below(self, below: str, device: str) -> dict[str, Tensor]:
        """Tensors without values."""
        return {
            name.removeprefix(below): torch.empty(kept.size, dtype=kept.properties.dtype, device=device)
            for name, kept in self.tensors.items()
            if name.startswith(below)
        }

    def misfits(self, tensors: Mapping[str, Tensor]) -> Iterator[Problem]:
        for name, tensor in tensors.items():
            if name not in self.tensors:
                yield Problem("bad-checkpoint", f"tensor '{name}' is missing")
                continue
            kept = self.tensors[name]
            there, here = _form(kept.size, kept.properties.dtype), _form(tensor.shape, tensor.dtype)
            if there != here:
                yield Problem("bad-checkpoint", f"tensor '{name}' is {there}, but the model expects {here}")

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

        planner = DefaultLoadPlanner()
        planner.set_up_planner({name: tensor.detach() for name, tensor in tensors.items()}, self.metadata)
        self.reader.set_up_storage_reader(self.metadata, is_coordinator=True)
        self.reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def _is_first(tensor: Tensor, rank: int) -> bool:
    """Whether no earlier rank has a copy of what this rank has of a tensor."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return rank == 0
    places = zip(tensor.placements, tensor.device_mesh.get_coordinate() or (), strict=True)
    return not any(placement.is_replicate() and at for placement, at in places)


def _form(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


@contextmanager
def _damage_named(checkpoint: Path) -> Iterator[None]:
    """What libraries raise on damaged bytes becomes a `Problem`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise _unreadable(checkpoint, error) from error
    except SafetensorError as error:
        raise _unreadable(checkpoint, error) from error


def _unreadable(checkpoint: Path, error: Exception) -> ProblemError:
    first = str(error).partition("\n")[0]
    return failed("bad-checkpoint", f"the shards cannot be read ({first})", str(checkpoint / FOLDER))
