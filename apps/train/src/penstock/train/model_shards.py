"""A checkpoint of a model whose parameters are cut: every rank writes its own parts, and nothing is gathered.

Shards hold the model's tensors under `model.` and their names in `state_dict()`: parameters, those of sharing and
quantizers too, and persistent buffers. A shared tensor is stored under its first name. The parameters that a partly
frozen model does not train are those of its base, and not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from penstock.hooks.contracts import LanguageModel, PartlyFrozen
from penstock.hooks.problems import Problem, ProblemError
from penstock.train import shards
from penstock.train.shards import Part

MODEL = "model"
PREFIX = f"{MODEL}."


@dataclass(frozen=True, slots=True)
class ModelShards:
    """What one rank writes of a model."""

    rank: int
    parts: Mapping[str, Part]

    @classmethod
    def of(cls, model: LanguageModel, rank: int) -> ModelShards:
        """The parts are views of the model's tensors."""
        named = {f"{PREFIX}{name}": tensor for name, tensor in tensors_of(model).items()}
        return cls(rank, shards.parts_of(named, rank))

    def with_copies(self, tensors: Mapping[str, Tensor]) -> ModelShards:
        return replace(self, parts={name: replace(part, tensor=tensors[name]) for name, part in self.parts.items()})

    def write(self, folder: Path) -> dict[str, str]:
        """Returns the SHA-256 of the file. Any thread may call it."""
        return shards.write(folder, MODEL, self.rank, self.parts)


def is_cut(model: LanguageModel) -> bool:
    """Whether each rank holds a part of the model's parameters."""
    return any(map(shards.is_cut, cast(nn.Module, model).parameters()))


def tensors_of(model: LanguageModel) -> dict[str, Tensor]:
    """The model's own tensors, to be read and to be filled."""
    state: dict[str, Any] = cast(nn.Module, model).state_dict(keep_vars=True)  # which cuts what was gathered to be used
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return {
        name: tensor
        for name, tensor in state.items()
        if first[id(tensor)] == name and not (isinstance(model, PartlyFrozen) and _frozen(tensor))
    }


def beside(model: LanguageModel, added: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tensors that sharing and quantizers keep that are not in the model itself."""
    within = {_memory(tensor) for tensor in tensors_of(model).values()}
    return {name: tensor for name, tensor in added.items() if _memory(tensor) not in within}


def require_in_place(model: LanguageModel, added: Mapping[str, Tensor]) -> None:
    """Raises `ProblemError` if sharing still holds parameters that an engine has cut since: a checkpoint would have
    their old values."""
    if not is_cut(model):
        return
    own = tuple(f".{name}" for name in tensors_of(model))
    lost = [name for name in beside(model, added) if name.endswith(own)]
    if lost:
        what = f"sharing keeps '{lost[0]}' by itself, but the engine has cut this parameter of the model"
        fix = "use train.engine=ddp, or a strategy that looks its parameters up in the model"
        raise ProblemError(Problem("unsupported", what, "model.sharing", fix))


def load(checkpoint: Path, model: LanguageModel) -> None:
    """Fills a model, cut or whole, from shards. Raises `ProblemError` that names every tensor that is missing, unknown
    or of another shape; the model is then unchanged."""
    own = tensors_of(model)
    unknown = sorted(shards.described(checkpoint, PREFIX).keys() - own.keys())
    if unknown:
        raise ProblemError([Problem("bad-checkpoint", f"tensor '{name}' is not part of the model") for name in unknown])
    shards.read_into(checkpoint, {f"{PREFIX}{name}": tensor for name, tensor in own.items()})


def _frozen(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _memory(tensor: Any) -> tuple[object, object]:
    own: Tensor = tensor.to_local() if shards.is_cut(tensor) else tensor
    return own.untyped_storage()._cdata, own.storage_offset()  # pyright: ignore[reportPrivateUsage]
