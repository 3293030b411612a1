"""Stand-ins, so that nothing here imports torch: `Tensor` is a `torch.Tensor` and `Array` a `numpy.ndarray`."""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
Array: TypeAlias = Any
