"""What each of two ranks finds when it steps its rows of parameters beside the whole ones."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from penstock.hooks.contracts import ParameterLayout, ParameterRole
from penstock.optim_muon import matrices, newton_schulz, sharded
from penstock.optim_muon.adamw import adamw
from penstock.optim_muon.muon import MuonAdamW

Parameters = dict[ParameterRole, dict[str, nn.Parameter]]
Make = Callable[..., torch.optim.Optimizer]

# Rows that two ranks share unevenly or that are too few for both, and rests that fill no vector register.
SHAPES: dict[ParameterRole, dict[str, tuple[int, ...]]] = {
    ParameterRole.MATRIX: {"tall": (33, 20), "wide": (20, 33), "square": (24, 24), "odd": (7, 5), "one row": (1, 8)},
    ParameterRole.EXPERT: {"experts": (4, 12, 8), "three": (3, 8, 12), "one expert": (1, 8, 8), "deep": (3, 2, 8, 4)},
    ParameterRole.EMBEDDING: {"embedding": (51, 7)},
    ParameterRole.ROUTER: {"gate": (3, 9)},
    ParameterRole.NORM: {"norm": (17,), "short": (16,), "long": (135,)},
    ParameterRole.BIAS: {"bias": (1,)},
}
# The rows of a rank fill vector registers: in bf16, torch rounds a lerp of the numbers left over otherwise.
IN_REGISTERS: dict[ParameterRole, dict[str, tuple[int, ...]]] = {
    ParameterRole.MATRIX: {"tall": (30, 32), "wide": (3, 64)},
    ParameterRole.EXPERT: {"experts": (3, 8, 32)},
    ParameterRole.NORM: {"norm": (17,)},
}
CASES: dict[str, tuple[Make, dict[str, Any]]] = {
    "fp32": (MuonAdamW, {"iteration_dtype": "float32", "weight_decay": 0.1}),
    "bf16": (MuonAdamW, {"iteration_dtype": "bfloat16", "weight_decay": 0.1}),
    "original scale, no Nesterov": (MuonAdamW, {"scaling": "original", "nesterov": False}),
    "adamw": (adamw, {}),
}
LAYOUTS = {
    "gate and up": ((3, 12, 8), ParameterLayout((("gate", 6), ("up", 6)))),
    "query, key and value": ((16, 8), ParameterLayout((("q", 8), ("k", 4), ("v", 4)))),
    "by head": ((24, 8), ParameterLayout((("q", 4), ("k", 2), ("v", 2)), blocks=3)),
    "every other row": ((2, 12, 8), ParameterLayout((("gate", 1), ("up", 1)), blocks=6)),
    "transposed": ((8, 12), ParameterLayout((("q", 6), ("k", 6)), transposed=True)),
    "a transposed stack": ((2, 8, 12), ParameterLayout((("gate", 1), ("up", 1)), blocks=6, transposed=True)),
}
# Of each the parts are scaled differently.
UNEVEN = {
    "query and key": ((40, 8), ParameterLayout((("q", 32), ("k", 8)))),
    "query and key by head": ((40, 8), ParameterLayout((("q", 8), ("k", 2)), blocks=4)),
    "transposed query and key": ((9, 40), ParameterLayout((("q", 32), ("k", 8)), transposed=True)),
}


def found(_: object) -> str:
    """Everything that a rank finds, as JSON."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    result = {
        "other bits": {name: _other_bits(make, mesh, settings) for name, (make, settings) in CASES.items()},
        "bf16 parameters": {
            name: _other_bits(make, mesh, {}, IN_REGISTERS, torch.bfloat16)
            for name, make in (("muon", MuonAdamW), ("adamw", adamw))
        },
        "layouts": _layouts(mesh),
        "small buckets": _small_buckets(mesh),
        "fully_shard": _fully_sharded(mesh),
        "without gradient": _without_gradient(mesh),
        "iterated": _iterated(mesh),
        "saved": _saved(mesh),
        "refused": _refused(mesh),
    }
    dist.barrier()
    dist.destroy_process_group()
    return json.dumps(result)


def _drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _whole(shapes: Mapping[ParameterRole, Mapping[str, tuple[int, ...]]], dtype: torch.dtype) -> Parameters:
    return {
        role: {name: nn.Parameter(_drawn(shape, len(name), dtype)) for name, shape in named.items()}
        for role, named in shapes.items()
    }


def _cut(parameters: Parameters, mesh: DeviceMesh) -> Parameters:
    return {
        role: {name: nn.Parameter(_rows(each.detach(), mesh)) for name, each in named.items()}
        for role, named in parameters.items()
    }


def _rows(tensor: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    chunks = [*tensor.chunk(2), tensor[:0]]  # one row has one chunk
    own = chunks[mesh.get_local_rank()].clone()
    return DTensor.from_local(own, mesh, [Shard(0)], shape=tensor.shape, stride=tensor.stride())


def _flat(parameters: Parameters) -> dict[str, nn.Parameter]:
    return {name: each for named in parameters.values() for name, each in named.items()}


def _give_gradients(whole: Parameters, cut: Parameters, mesh: DeviceMesh, step: int) -> None:
    for (name, parameter), rows in zip(_flat(whole).items(), _flat(cut).values(), strict=True):
        parameter.grad = _drawn(tuple(parameter.shape), 100 * step + len(name), parameter.dtype)
        rows.grad = _rows(parameter.grad, mesh)


def _step_both(
    whole: Parameters, cut: Parameters, mesh: DeviceMesh, make: Make, settings: Mapping[str, Any]
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    optimizers = make(whole, **settings), make(cut, **settings)
    for step in range(3):
        _give_gradients(whole, cut, mesh, step)
        for optimizer in optimizers:
            optimizer.step()
    return optimizers


def _differing(
    whole: Parameters, cut: Parameters, of_whole: torch.optim.Optimizer, of_cut: torch.optim.Optimizer
) -> list[str]:
    """Parameters that have other bits than the whole ones, or state that has."""
    differing: list[str] = []
    for (name, parameter), rows in zip(_flat(whole).items(), _flat(cut).values(), strict=True):
        pairs = [(parameter.detach(), rows.detach())]
        pairs += [(value, of_cut.state[rows][key]) for key, value in of_whole.state[parameter].items()]
        whole_bits = [_full(each) for _, each in pairs]
        if not all(torch.equal(expected, bits) for (expected, _), bits in zip(pairs, whole_bits, strict=True)):
            differing.append(name)
    return differing


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _other_bits(
    make: Make,
    mesh: DeviceMesh,
    settings: Mapping[str, Any],
    shapes: Mapping[ParameterRole, Mapping[str, tuple[int, ...]]] = SHAPES,
    dtype: torch.dtype = torch.float32,
) -> list[str]:
    whole = _whole(shapes, dtype)
    cut = _cut(whole, mesh)
    return _differing(whole, cut, *_step_both(whole, cut, mesh, make, settings))


def _layouts(mesh: DeviceMesh) -> list[str]:
    differing: list[str] = []
    cases = {**LAYOUTS, **UNEVEN}
    shapes = {ParameterRole.MATRIX: {name: shape for name, (shape, _) in cases.items()}}
    layouts = {name: layout for name, (_, layout) in cases.items()}
    for scaling in ("match_rms", "original"):
        whole = _whole(shapes, torch.float32)
        cut = _cut(whole, mesh)
        settings = {"layouts": layouts, "scaling": scaling, "weight_decay": 0.1}
        differing += _differing(whole, cut, *_step_both(whole, cut, mesh, MuonAdamW, settings))
    return differing


def _small_buckets(mesh: DeviceMesh) -> list[str]:
    kept = sharded.BUCKET
    sharded.BUCKET = 1
    try:
        return _other_bits(MuonAdamW, mesh, {})
    finally:
        sharded.BUCKET = kept


def _fully_sharded(mesh: DeviceMesh) -> list[str]:
    """With the shards of `fully_shard`, which lie in padded memory."""
    shapes = {ParameterRole.MATRIX: {"matrix": (7, 6)}, ParameterRole.NORM: {"norm": (5,)}}
    whole = _whole(shapes, torch.float32)
    module = nn.Module()
    for name, parameter in _flat(whole).items():
        module.register_parameter(name, nn.Parameter(parameter.detach().clone()))
    fully_shard(module, mesh=mesh)
    parameters = dict(module.named_parameters())
    cut: Parameters = {role: {name: parameters[name] for name in named} for role, named in whole.items()}
    return _differing(whole, cut, *_step_both(whole, cut, mesh, MuonAdamW, {}))


def _without_gradient(mesh: DeviceMesh) -> list[str]:
    """What moved, or has state, without a gradient."""
    whole = _whole(SHAPES, torch.float32)
    cut = _cut(whole, mesh)
    before = {name: each.detach().clone() for name, each in _flat(cut).items()}
    optimizer = MuonAdamW(cut, weight_decay=0.1)
    _give_gradients(whole, cut, mesh, 0)
    idle = {name: _flat(cut)[name] for name in ("tall", "experts", "embedding", "norm")}
    for parameter in idle.values():
        parameter.grad = None
    optimizer.step()
    return [
        name
        for name, each in idle.items()
        if not torch.equal(_full(each.detach()), _full(before[name])) or each in optimizer.state
    ]


@contextmanager
def _counting() -> Iterator[list[int]]:
    """Matrices that are iterated while it lasts."""
    counts: list[int] = []
    original = newton_schulz.orthogonalize

    def counted(matrix: torch.Tensor, **settings: Any) -> torch.Tensor:
        counts.append(matrix.shape[:-2].numel())
        return original(matrix, **settings)

    for module in (matrices, sharded):
        cast(Any, module).orthogonalize = counted
    try:
        yield counts
    finally:
        for module in (matrices, sharded):
            cast(Any, module).orthogonalize = original


def _iterated(mesh: DeviceMesh) -> dict[str, int]:
    """Matrices iterated in three steps, by this rank of a pair and by one process, of parameters that are fused too."""
    shapes = {**SHAPES, ParameterRole.MATRIX: {"tall": (33, 20), "fused": (24, 8)}}
    layouts = {"fused": LAYOUTS["by head"][1]}
    whole = _whole(shapes, torch.float32)
    cut = _cut(whole, mesh)
    counted: dict[str, int] = {}
    for name, parameters in (("alone", whole), ("here", cut)):
        optimizer = MuonAdamW(parameters, layouts=layouts)
        with _counting() as counts:
            for step in range(3):
                _give_gradients(whole, cut, mesh, step)
                optimizer.step()
        counted[name] = sum(counts)
    return counted


def _saved(mesh: DeviceMesh) -> list[str]:
    """What has other bits after a step of an optimizer that goes on from a checkpoint of both ranks' states."""
    whole = _whole(SHAPES, torch.float32)
    cut = _cut(whole, mesh)
    alone, optimizer = _step_both(whole, cut, mesh, MuonAdamW, {})
    folder = Path(tempfile.gettempdir(), f"cut-{os.environ['MASTER_PORT']}")
    states = {f"{index}.{key}": value for index, key, value in _states(optimizer)}
    save(states, checkpoint_id=folder)
    resumed: Parameters = _cut(whole, mesh)
    later = MuonAdamW(resumed)
    _give_gradients(whole, resumed, mesh, 9)
    loaded = {name: torch.zeros_like(value) for name, value in states.items()}
    load(loaded, checkpoint_id=folder)
    state = optimizer.state_dict()
    for index, key, _ in _states(optimizer):
        state["state"][index][key] = loaded[f"{index}.{key}"]
    later.load_state_dict(state)
    alone.step()
    later.step()
    return _differing(whole, resumed, alone, later)


def _states(optimizer: torch.optim.Optimizer) -> list[tuple[int, str, torch.Tensor]]:
    states = optimizer.state_dict()["state"]
    return [(index, key, value) for index, state in states.items() for key, value in state.items()]


def _refused(mesh: DeviceMesh) -> dict[str, str]:
    """What is said to a parameter that is cut by columns."""
    columns = nn.Parameter(distribute_tensor(_drawn((8, 8), 0), mesh, [Shard(1)]))
    said: dict[str, str] = {}
    for name, make in (("muon", MuonAdamW), ("adamw", adamw)):
        try:
            make({ParameterRole.MATRIX: {"query": columns}})
        except ValueError as error:
            said[name] = str(error)
    return said
