"""Parameters that an engine has cut over ranks: DTensors of which each rank has some rows, as `fully_shard` cuts them.

Imports no `torch.distributed.tensor`, which takes longer to import than torch: a run of one process has no need of it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def is_cut(tensor: Any) -> bool:
    return hasattr(tensor, "placements")


def local(tensor: Any) -> Tensor:
    """This rank's rows; a tensor that is not cut is returned unchanged."""
    return tensor.to_local() if is_cut(tensor) else tensor


def rows_of(tensor: Any) -> tuple[slice, ...]:
    """The rows of each rank. Like `torch.chunk`: equal counts, fewer or none on the last ranks."""
    rows, ranks = tensor.shape[0], tensor.device_mesh.size()
    each = -(-rows // ranks)
    return tuple(slice(min(rank * each, rows), min((rank + 1) * each, rows)) for rank in range(ranks))


def check_cut(name: str, tensor: Any) -> None:
    """Raises ValueError for a parameter that is cut otherwise than by rows over one line of ranks."""
    if is_cut(tensor) and [getattr(each, "dim", None) for each in tensor.placements] != [0]:
        raise ValueError(
            f"parameter '{name}' has the placements {tuple(tensor.placements)}, but only rows over one dimension of "
            "ranks can be stepped: cut it with Shard(0) on a mesh of one dimension"
        )
