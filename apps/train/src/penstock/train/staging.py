"""Copies of state that training goes on to change, in memory that is kept from one copy to the next.

Memory that is written to for the first time costs five times the copy (256 MB: 122 ms, then 25 ms), so buffers stay.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

PARALLEL = 4 * 2**20  # bytes from which several threads copy
T = TypeVar("T")


class Buffers:
    """The memory of one copy: the next one overwrites it."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def copied(self, value: T) -> T:
        """A nested value with all its tensors on the CPU. Memory that several tensors share is copied once, and they
        share the copy."""
        memories = _memories(value)
        self._keep(list(memories.values()))
        for kept, source in zip(self._kept, memories.values(), strict=True):
            _copy(kept, source)
        if any(each.is_pinned() for each in self._kept):
            torch.cuda.current_stream().synchronize()
        return _with_copies(value, dict(zip(memories, self._kept, strict=True)))

    def _keep(self, sources: list[Tensor]) -> None:
        kept = self._kept + [None] * len(sources)
        self._kept = [_like(source, each) for source, each in zip(sources, kept, strict=False)]


def bytes_to_copy(value: Any) -> int:
    """What `Buffers.copied` takes; the tensors may be on the meta device."""
    return sum(each.nbytes for each in _memories(value).values())


def _memories(value: Any) -> dict[int, Tensor]:
    """Each memory that tensors of a nested value lie in, by its identity."""
    one_of_each = {_memory(tensor): tensor for tensor in _tensors(value)}
    return {memory: _flat(tensor) for memory, tensor in one_of_each.items()}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _with_copies(value: Any, copies: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        copied = copies[_memory(value)].view(value.dtype)
        return copied.as_strided(value.shape, value.stride(), value.storage_offset())
    if isinstance(value, Mapping):
        return {name: _with_copies(each, copies) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_copies(each, copies) for each in value)
    return copy.deepcopy(value)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _flat(tensor: Tensor) -> Tensor:
    """All of the memory that the tensor is a part of."""
    return tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)


def _copy(kept: Tensor, source: Tensor) -> None:
    """Small copies by one thread: where cores are busy, waking the others for each takes twice the time of 400 copies
    of 640 KB (65 ms, then 27 ms)."""
    if source.device.type == "cpu" and source.nbytes < PARALLEL:
        ctypes.memmove(kept.data_ptr(), source.data_ptr(), source.nbytes)
    else:
        kept.copy_(source, non_blocking=True)


def _like(source: Tensor, kept: Tensor | None) -> Tensor:
    """The kept memory, if it has the form of the source; else new memory, pinned for what comes from a GPU."""
    if kept is not None and (kept.shape, kept.dtype) == (source.shape, source.dtype):
        return kept
    return torch.empty(source.shape, dtype=source.dtype, pin_memory=source.device.type == "cuda")


@dataclass(frozen=True, slots=True)
class Files:
    """Values by the name of the file that each is written to: the state of an engine, or a copy of it."""

    values: Mapping[str, Any]

    def write(self, folder: Path) -> dict[str, str]:
        """Returns the SHA-256 of each file."""
        for name, value in self.values.items():
            with (folder / name).open("wb") as file:  # given a path, torch loses the reason why it cannot be written
                torch.save(value, file)
        return {name: _sha256(folder / name) for name in self.values}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
