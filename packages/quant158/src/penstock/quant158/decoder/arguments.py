"""The arguments of the library's decoder, as native/decoder_api.h has them."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.quant158.decoder.description import Dense, Description, Mixture, hidden_of
from penstock.quant158.stored import Group, format_of, unpacked
from penstock.quant158.values import VALUES

_GROUPS: Mapping[Group, int] = {"row": 0, "tensor": -1}  # as native/repack.h has them; the others are their columns
_i64, _f64, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class StoredTensor(Protocol):
    """What an artifact says of a tensor: its format and its shape."""

    @property
    def format(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Tensors(Protocol):
    """What the decoder reads of an artifact."""

    @property
    def names(self) -> Sequence[str]: ...
    def tensor(self, name: str) -> StoredTensor: ...
    def arrays(self, name: str) -> Mapping[str, NDArray[Any]]: ...
    def weight(self, name: str) -> NDArray[np.float32]: ...


class Sampling(ctypes.Structure):
    _fields_ = (("temperature", _f64), ("top_p", _f64), ("top_k", _i64))


class _ModelSizes(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("width", "heads", "key_value_heads", "head_width", "rotary_width", "vocabulary")),
        *((name, _i64) for name in ("positions", "layers", "matrix_planes", "expert_planes", "head_planes")),
        *((name, _i64) for name in ("bias", "qk_norm", "sub_norm", "tied")),
        *((name, _f64) for name in ("epsilon", "rope_theta")),
    )


class _LayerSizes(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("hidden", "experts", "chosen", "expert_hidden", "softmax", "normalize")),
        *((name, _f64) for name in ("scale", "temperature")),
    )


class _StoredMatrix(ctypes.Structure):
    _fields_ = (
        ("stream", _pointer),
        *((name, _i64) for name in ("first_trit", "rows", "columns")),
        ("scales", _pointer),
        ("group", _i64),
    )


class _StoredRows(ctypes.Structure):
    _fields_ = (("full", _pointer), ("codes", _pointer), ("scales", _pointer))


class _FloatArray(ctypes.Structure):
    _fields_ = (("values", _pointer), ("count", _i64))


class _Arguments(ctypes.Structure):
    _fields_ = (
        ("sizes", _ModelSizes),
        *((name, _pointer) for name in ("layers", "matrices", "floats", "rows")),
        *((name, _i64) for name in ("matrix_count", "float_count", "row_count")),
    )


class StoredModel:
    """The arguments of `penstock_decoder_new`, and the arrays that they point to, which it keeps alive."""

    def __init__(self, tensors: Tensors, description: Description) -> None:
        self._kept: list[Any] = []
        self.matrix_names: list[str] = []
        matrices, floats, rows = (
            self._matrices(tensors, description),
            [self._floats(tensors.weight(name)) for name, _ in description.vectors()],
            [self._rows(tensors, name) for name, _ in description.rows()],
        )
        layers = [_layer(layer) for layer in description.layers]
        self.model = _Arguments(
            _sizes(description),
            self._array(_LayerSizes, layers),
            self._array(_StoredMatrix, matrices),
            self._array(_FloatArray, floats),
            self._array(_StoredRows, rows),
            len(matrices),
            len(floats),
            len(rows),
        )

    def _array(self, kind: type[ctypes.Structure], items: Sequence[ctypes.Structure]) -> int:
        array = (kind * len(items))(*items)
        self._kept.append(array)
        return ctypes.addressof(array)

    def _at(self, array: NDArray[Any]) -> int:
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return array.ctypes.data

    def _floats(self, values: NDArray[np.float32]) -> _FloatArray:
        return _FloatArray(self._at(values), values.size)

    def _rows(self, tensors: Tensors, name: str) -> _StoredRows:
        stored = tensors.tensor(name)
        if stored.format in VALUES:
            return _StoredRows(self._at(tensors.weight(name)), None, None)
        arrays = dict(tensors.arrays(name))
        codes, scale = arrays["codes"], arrays["scale"]
        if format_of(stored.format).coding == "int4":
            ones = np.ones_like(scale)
            codes = unpacked(stored.format, {"codes": codes, "scale": ones}, tuple(stored.shape)).astype(np.int8)
        return _StoredRows(None, self._at(codes), self._at(scale))

    def _matrices(self, tensors: Tensors, description: Description) -> list[_StoredMatrix]:
        """Experts come one after another, each with its gate, up and down."""
        found: list[_StoredMatrix] = []
        stacks: list[list[_StoredMatrix]] = []
        for name, shape in description.matrices():
            slices = self._slices(tensors, name, shape)
            if len(shape) == 2:
                found += slices
                self.matrix_names.append(name)
                continue
            stacks.append(slices)
            if len(stacks) == 3:
                found += itertools.chain.from_iterable(zip(*stacks, strict=True))
                self.matrix_names += [name] * sum(map(len, stacks))
                stacks = []
        return found

    def _slices(self, tensors: Tensors, name: str, shape: tuple[int, ...]) -> list[_StoredMatrix]:
        """The matrices of a stack: each begins somewhere in the one stream of codes."""
        arrays = tensors.arrays(name)
        scale = np.ascontiguousarray(arrays["scale"]).reshape(-1, *arrays["scale"].shape[-2:])
        codes, scales = self._at(arrays["codes"]), self._at(scale)
        *stack, rows, columns = shape
        group = format_of(tensors.tensor(name).format).group
        return [
            _StoredMatrix(
                codes,
                number * rows * columns,
                rows,
                columns,
                scales + number * scale[0].nbytes,
                group if isinstance(group, int) else _GROUPS[group],
            )
            for number in range(math.prod(stack))
        ]


def _sizes(description: Description) -> _ModelSizes:
    bits = description.activations
    fields = (field[0] for field in _ModelSizes._fields_)
    same = {name: getattr(description, name) for name in fields if name in Description.model_fields}
    planes = {f"{role}_planes": getattr(bits, role) // 8 for role in ("matrix", "expert", "head")}
    return _ModelSizes(**{**same, **planes, "layers": len(description.layers)})


def _layer(layer: Dense | Mixture) -> _LayerSizes:
    if isinstance(layer, Dense):
        return _LayerSizes(hidden=layer.hidden)
    return _LayerSizes(
        hidden=hidden_of(layer),
        experts=layer.experts,
        chosen=layer.k,
        expert_hidden=layer.hidden,
        softmax=layer.score == "softmax",
        normalize=layer.normalize,
        scale=layer.scale,
        temperature=layer.temperature,
    )
