"""Recordings of SGLang's expert distribution recorder, read without torch.

The recorder writes a dictionary with `torch.save`: a zip of a pickle and one file of numbers per tensor. The
unpickler here turns tensors into numpy arrays and refuses every other object by name, so a recording runs no code.
`logical_count` holds the assignments [steps, layers, experts] or [layers, experts]; rows are the model's layers in
order, 0 for a dense layer. A recording does not contain k.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from penstock.traces.trace import RoutingTrace

Lengths = tuple[int, ...]

STORAGES = {
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "HalfStorage": np.float16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
}
"""The number types that numpy also has; numpy has no bfloat16."""


def traces_of(path: Path) -> dict[str, RoutingTrace]:
    """The trace of a recording, by the file's name. Raises an exception of zipfile, pickle or numpy for a damaged file,
    and ValueError for one without counts."""
    recording = load(path)
    if not isinstance(recording, dict) or "logical_count" not in recording:
        raise ValueError("no `logical_count` in it; record with `--expert-distribution-recorder-mode stat`")
    counts = np.asarray(recording["logical_count"])
    if counts.ndim not in (2, 3) or not np.isfinite(counts).all():
        raise ValueError(f"`logical_count` must be finite numbers [steps, layers, experts], not {counts.shape}")
    if counts.dtype.kind not in "iufb" or (counts != np.rint(counts)).any() or (np.abs(counts) > 2**62).any():
        raise ValueError("`logical_count` has numbers that are no counts")
    counts_SLE = counts.reshape(-1, *counts.shape[-2:]).astype(np.int64)
    header = {"model": path.stem, "layers": list(range(counts_SLE.shape[1]))}
    return {path.stem: RoutingTrace(counts_SLE, header)}


def load(path: Path) -> Any:
    """What `torch.save` wrote, with numpy arrays in place of tensors."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        with archive.open(pickled) as file:
            return _Unpickler(file, archive, pickled.removesuffix("data.pkl")).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self.archive, self.folder = archive, folder
        order = f"{folder}byteorder"
        self.order: Literal["<", ">"] = "<"
        if order in archive.namelist() and archive.read(order) == b"big":
            self.order = ">"

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch" and global_name in STORAGES:
            return np.dtype(STORAGES[global_name]).newbyteorder(self.order)
        allowed = {("torch._utils", "_rebuild_tensor_v2"): _tensor, ("collections", "OrderedDict"): OrderedDict}
        try:
            return allowed[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it holds {module_name}.{global_name}, which is not a tensor of counts"
            ) from None

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """The numbers of a storage: ("storage", type, key, location, length)."""
        _, kind, key, _, length = pid
        numbers = np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), dtype=kind)
        if len(numbers) != length:
            raise ValueError(f"a tensor has {len(numbers)} of its {length} numbers")
        return numbers


def _tensor(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    """A copy of a tensor, which is a view of a storage and must lie within it."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, dtype=storage.dtype)
    if min(offset, *size, *stride, 0) < 0 or last >= len(storage) or np.prod(size, dtype=object) > len(storage):
        raise ValueError(f"a tensor of {size} lies outside its {len(storage)} numbers")
    strides = [step * storage.itemsize for step in stride]
    return as_strided(storage[offset:], size, strides, writeable=False).copy()
