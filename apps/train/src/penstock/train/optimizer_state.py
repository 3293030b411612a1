"""What an optimizer keeps, by the name of the parameter: any engine continues from it, whichever engine saved it.

`engine.pt` has the optimizer's `state_dict()`, which counts parameters, and their names in that order (`PARAMETERS`).
What belongs to a cut parameter is cut like it, and stored in shards as `optimizer.PARAMETER.KEY`. Early checkpoints
have no names: their order is that of the optimizer's groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penstock.train import shards

PARAMETERS = "parameters"
PREFIX = "optimizer."


def parameter_names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters in the order in which its `state_dict()` counts them. To be asked before
    the first step: an engine may put other objects in the place of parameters while it trains."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def whole_state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Any]:
    """What an engine's own file holds of an optimizer. Nothing is copied, and nothing that is cut is in it."""
    saved = optimizer.state_dict()
    whole = {
        index: {key: each for key, each in values.items() if not shards.is_cut(each)}
        for index, values in saved["state"].items()
    }
    return {"optimizer": {**saved, "state": whole}, PARAMETERS: list(names)}


def cut_state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """What shards hold of an optimizer: all that is cut. Nothing is copied."""
    return {
        f"{PREFIX}{names[index]}.{key}": each
        for index, values in optimizer.state_dict()["state"].items()
        for key, each in values.items()
        if shards.is_cut(each)
    }


def restore(optimizer: torch.optim.Optimizer, names: Sequence[str], saved: Mapping[str, Any], checkpoint: Path) -> None:
    """Continues from what `whole_state` and `cut_state` gave to be saved. Raises `ValueError` for a state of
    other parameters, and `ProblemError` for shards that cannot be read."""
    state, own = saved["optimizer"], optimizer.state_dict()["param_groups"]
    theirs: list[str] = saved.get(PARAMETERS, list(names))
    if {*theirs} != {*names} or _sizes(state["param_groups"]) != _sizes(own):
        differing = ", ".join(sorted({*theirs} ^ {*names})[:3])
        raise ValueError(f"the state is that of an optimizer of other parameters ({differing or 'other groups'})")
    values = {theirs[index]: dict(each) for index, each in state["state"].items()}
    parameters = dict(zip(names, _parameters(optimizer), strict=True))
    for name, tensor in _from_shards(checkpoint, parameters).items():
        parameter, _, key = name.rpartition(".")
        values.setdefault(parameter, {})[key] = tensor
    settings = [{**then, "params": now["params"]} for then, now in zip(state["param_groups"], own, strict=True)]
    by_index = {names.index(name): _cut_like(parameters[name], each) for name, each in values.items()}
    optimizer.load_state_dict({"state": by_index, "param_groups": settings})


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _from_shards(checkpoint: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What shards hold of an optimizer: what belongs to a cut parameter is cut like it."""
    if not shards.present(checkpoint):
        return {}
    found: dict[str, Tensor] = {}
    for name, kept in shards.described(checkpoint, PREFIX).items():
        parameter = parameters[name.rpartition(".")[0]]
        like = parameter if parameter.shape == kept.shape else torch.empty(kept.shape)
        found[name] = torch.empty_like(like.detach(), dtype=kept.dtype)
    shards.read_into(checkpoint, {f"{PREFIX}{name}": tensor for name, tensor in found.items()})
    return found


def _cut_like(parameter: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a parameter: of a whole value in the shape of a cut parameter, each rank takes its part."""
    if not shards.is_cut(parameter):
        return dict(values)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    mesh, placements = parameter.device_mesh, parameter.placements
    return {
        key: distribute_tensor(each.to(parameter.device), mesh, placements, src_data_rank=None)
        if isinstance(each, Tensor) and not shards.is_cut(each) and each.shape == parameter.shape
        else each
        for key, each in values.items()
    }
