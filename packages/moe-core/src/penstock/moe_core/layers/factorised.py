"""A table [V, D] as the product of a table [V, R] and a projection, as ALBERT's embeddings are (arXiv:1909.11942).

Shape suffixes: V vocabulary, D model width, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from penstock.moe_core.layers.linear import Linear
from penstock.moe_core.layers.site import Table


@torch.no_grad()
def factors(weight_VD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A table [V, R] and R orthonormal directions [D, R]; their product is the nearest of this rank to the weight
    (Eckart and Young 1936). The directions are eigenvectors of a matrix [D, D], which is cheap where V is large. Raises
    ValueError for a rank that saves nothing."""
    rows, width = weight_VD.shape
    if not 0 < rank < width:
        raise ValueError(f"rank {rank} is not below the width {width} of the table")
    if weight_VD.is_meta:
        return weight_VD.new_empty(rows, rank), weight_VD.new_empty(width, rank)
    eigen_DD = torch.linalg.eigh((weight_VD.T @ weight_VD).double()).eigenvectors
    direction_DR = eigen_DD.flip(-1)[:, :rank].to(weight_VD.dtype).contiguous()
    return weight_VD @ direction_DR, direction_DR


def projection(weight_OI: Tensor) -> Linear:
    """A linear layer with this weight."""
    with torch.device("meta"):
        made = Linear(weight_OI.shape[1], weight_OI.shape[0])
    made.weight = nn.Parameter(weight_OI)
    return made


def multiplied_out(table_VR: Tensor, projection_DR: Tensor) -> Tensor:
    """The table [V, D] that an embedding or a head computes with."""
    return table_VR @ projection_DR.T


def without_projections(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of whole tables [V, D], as layouts without projections have them."""
    tables = {
        path: each for path, each in module.named_modules() if isinstance(each, Table) and each.projection is not None
    }
    projections = {f"{path}.projection.weight" for path in tables}
    own = {name: tensor for name, tensor in state.items() if name not in projections}
    return own | {f"{path}.weight": table.whole() for path, table in tables.items()}
