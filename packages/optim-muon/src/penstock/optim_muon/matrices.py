"""A step of Muon for whole matrices, in batches of equal shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from penstock.optim_muon.newton_schulz import multiplies_bf16, orthogonalize

# Elements of matrices that are stepped as one batch. 2^24 (64 MiB in fp32) fill a GPU; on a CPU what a batch
# needs stays near the cache, and the next one finds it mapped: 160 experts take 0.84 of the time of one batch.
GPU_BATCH, CPU_BATCH = 2**24, 2**20

# pyright: reportPrivateImportUsage=false
# (torch.optim is built on torch._foreach_*, which torch exports without naming it public)

Scaling = Literal["match_rms", "original"]
IterationDtype = Literal["auto", "float32", "bfloat16"]


def batches(tensors: Iterable[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Batches of equal matrices from tuples of tensors [..., m, n] of one shape, as stacks [count, m, n]; small stacks
    are joined, large ones cut."""
    open_batches: dict[Any, list[tuple[Tensor, ...]]] = {}
    sizes: dict[Any, int] = {}
    for each in tensors:
        stacks = [tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.flatten(0, -3) for tensor in each]
        first = each[0]
        key = (first.shape[-2:], first.device, first.dtype)
        limit = CPU_BATCH if first.device.type == "cpu" else GPU_BATCH
        together = max(1, limit // stacks[0][0].numel())
        for piece in zip(*(stack.split(together) for stack in stacks), strict=True):
            if key in open_batches and sizes[key] + len(piece[0]) > together:
                yield open_batches.pop(key)
            sizes[key] = len(piece[0]) + (sizes[key] if key in open_batches else 0)
            open_batches.setdefault(key, []).append(piece)
    yield from open_batches.values()


def step_batch(batch: list[tuple[Tensor, ...]], group: Mapping[str, Any]) -> None:
    """One step of (parameter, gradient, momentum) stacks [count, m, n] that share m and n."""
    parameters, gradients, momenta = (list(tensors) for tensors in zip(*batch, strict=True))
    torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
    counts = [len(parameter) for parameter in parameters]
    updates = parameters[0].new_empty(sum(counts), *parameters[0].shape[1:])
    for update, gradient, momentum in zip(updates.split(counts), gradients, momenta, strict=True):
        torch.lerp(gradient, momentum, nesterov_weight(group), out=update)
    dtype = iteration_dtype(group["iteration_dtype"], updates.device)
    directions = orthogonalize(updates, steps=group["steps"], dtype=dtype).split(counts)
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    scale = update_scale(group["scaling"], *parameters[0].shape[1:])
    torch._foreach_add_(parameters, directions, alpha=-group["lr"] * scale)


def nesterov_weight(group: Mapping[str, Any]) -> float:
    """Share of the momentum in what is orthogonalised; the rest is the gradient's."""
    return group["momentum"] if group["nesterov"] else 1.0


def update_scale(scaling: str, rows: int, columns: int) -> float:
    match scaling:
        case "match_rms":
            return 0.2 * math.sqrt(max(rows, columns))
        case "original":
            return math.sqrt(max(1.0, rows / columns))
        case _:
            raise ValueError(f"unknown scaling '{scaling}': use 'match_rms' or 'original'")


def iteration_dtype(name: str, device: torch.device) -> torch.dtype:
    match name:
        case "auto":
            return torch.bfloat16 if multiplies_bf16(device) else torch.float32
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case _:
            raise ValueError(f"unknown iteration_dtype '{name}': use 'auto', 'float32' or 'bfloat16'")
