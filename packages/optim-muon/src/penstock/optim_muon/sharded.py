"""Muon for matrices whose rows lie on several ranks.

Momentum, Nesterov step, weight decay and the final addition are elementwise: each rank does them for its own rows, so
its state shrinks with the number of ranks. Only the orthogonalisation needs a matrix whole. Each matrix has one owner;
the rows of its update travel there, it is iterated once, and the rows of its direction travel back. A stack of experts
[E, out, in] is cut between experts and needs none of this.

Every element has the bits that one process gives it, because each matrix is iterated on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.hooks.contracts import ParameterLayout
from penstock.optim_muon.cut import local, rows_of
from penstock.optim_muon.matrices import batches, iteration_dtype, nesterov_weight, update_scale
from penstock.optim_muon.newton_schulz import orthogonalize

# Numbers that travel at once, over all ranks: what a bucket needs is small beside the parameters.
BUCKET = 2**22

# pyright: reportPrivateImportUsage=false


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter [rows, columns] of which rank r has the rows `cuts[r]`, and which `owner` iterates."""

    parameter: Any
    gradient: Any
    momentum: Any
    layout: ParameterLayout
    owner: int
    cuts: tuple[slice, ...]

    def numbers(self, rank: int) -> int:
        return (self.cuts[rank].stop - self.cuts[rank].start) * self.parameter.shape[1]


def step_matrices(
    triples: Sequence[tuple[Any, Any, Any]], layouts: Sequence[ParameterLayout], group: Mapping[str, Any]
) -> None:
    """Steps (parameter, gradient, momentum), DTensors [rows, columns]. All ranks call it with the same ones."""
    mesh = triples[0][0].device_mesh
    rank, ranks, process_group = mesh.get_local_rank(), mesh.size(), mesh.get_group()
    for bucket in _buckets(triples, layouts, ranks):
        exchange = _Exchange(bucket, rank, ranks, process_group)
        rows = _updates(bucket, group)
        updates = exchange.to_owners(rows)
        directions = _directions(updates, [matrix.layout for matrix in bucket if matrix.owner == rank], group["steps"])
        for matrix, direction in zip(bucket, exchange.from_owners(directions, rows[0]), strict=True):
            _add(matrix, direction, matrix.cuts[rank], group)


def _buckets(
    triples: Iterable[tuple[Any, Any, Any]], layouts: Iterable[ParameterLayout], ranks: int
) -> Iterator[list[Matrix]]:
    """The largest matrices first, each owned by the rank with the least to iterate; a bucket has one for each rank."""
    loads = [0] * ranks
    bucket: list[Matrix] = []
    for triple, layout in sorted(zip(triples, layouts, strict=True), key=lambda each: -each[0][0].numel()):
        parameter = triple[0]
        owner = loads.index(min(loads))
        loads[owner] += parameter.numel() * min(parameter.shape)
        bucket.append(Matrix(*triple, layout, owner, rows_of(parameter)))
        if len(bucket) >= ranks and sum(matrix.parameter.numel() for matrix in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _updates(bucket: Sequence[Matrix], group: Mapping[str, Any]) -> list[Tensor]:
    """This rank's rows of what is orthogonalised, after the momentum has moved."""
    gradients = [local(matrix.gradient) for matrix in bucket]
    momenta = [local(matrix.momentum) for matrix in bucket]
    torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
    dtype = iteration_dtype(group["iteration_dtype"], gradients[0].device)
    pairs = zip(gradients, momenta, strict=True)
    return [torch.lerp(gradient, momentum, nesterov_weight(group)).to(dtype) for gradient, momentum in pairs]


def _directions(updates: Sequence[Tensor], layouts: Sequence[ParameterLayout], steps: int) -> list[Tensor]:
    """The orthogonal direction of each whole update, the parts of a fused one separately."""
    directions = [torch.empty_like(update) for update in updates]
    sources = [layout.matrices(update) for layout, update in zip(layouts, updates, strict=True)]
    targets = [layout.matrices(direction) for layout, direction in zip(layouts, directions, strict=True)]
    pairs = zip(chain(*(each.values() for each in sources)), chain(*(each.values() for each in targets)), strict=True)
    for batch in batches(pairs):
        stacks, places = zip(*batch, strict=True)
        iterated = orthogonalize(torch.cat(stacks), steps=steps, dtype=stacks[0].dtype)
        torch._foreach_copy_(list(places), list(iterated.split([len(stack) for stack in stacks])))
    for layout, direction, parts in zip(layouts, directions, targets, strict=True):
        if layout.blocks > 1:  # copies; all others are views of the direction
            layout.write(direction, parts)
    return directions


def _add(matrix: Matrix, direction: Tensor, rows: slice, group: Mapping[str, Any]) -> None:
    """Weight decay and the scaled direction, on this rank's rows."""
    parameter, shape = local(matrix.parameter), tuple(matrix.parameter.shape)
    if group["weight_decay"]:
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
    rates = [-group["lr"] * update_scale(group["scaling"], *each) for each in matrix.layout.shapes(shape).values()]
    if len(set(rates)) == 1:
        parameter.add_(direction, alpha=rates[0])
        return
    for place, rate in zip(_places(matrix.layout, shape, rows, parameter.device), rates, strict=True):
        parameter[place] = parameter[place].add(direction[place], alpha=rate)


def _places(
    layout: ParameterLayout, shape: tuple[int, ...], rows: slice, device: torch.device
) -> Iterator[tuple[Any, ...]]:
    """Where each part's outputs are among these rows of the stored matrix, whose columns they are if transposed."""
    outputs = torch.arange(shape[1 if layout.transposed else 0], device=device)
    for part in layout.matrices(outputs[None] if layout.transposed else outputs[:, None]).values():
        numbers = part.flatten()
        if layout.transposed:
            yield (slice(None), numbers)
        else:
            yield (numbers[(numbers >= rows.start) & (numbers < rows.stop)] - rows.start,)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """Takes the rows of a bucket's matrices to their owners and back, with one collective each way."""

    bucket: Sequence[Matrix]
    rank: int
    ranks: int
    process_group: Any

    def to_owners(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """The matrices that this rank owns whole, from this rank's rows of every matrix."""
        sent = [
            [piece for piece, matrix in zip(rows, self.bucket, strict=True) if matrix.owner == owner]
            for owner in range(self.ranks)
        ]
        owned = self._owned_by(self.rank)
        counts = [[matrix.numbers(source) for matrix in owned] for source in range(self.ranks)]
        pieces = zip(*self._exchanged(sent, counts, rows[0]), strict=True)
        return [torch.cat(each).view(matrix.parameter.shape) for matrix, each in zip(owned, pieces, strict=True)]

    def from_owners(self, wholes: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """This rank's rows of every matrix, from the whole ones that this rank owns."""
        owned = self._owned_by(self.rank)
        sent = [
            [whole[matrix.cuts[to]] for whole, matrix in zip(wholes, owned, strict=True)] for to in range(self.ranks)
        ]
        counts = [[matrix.numbers(self.rank) for matrix in self._owned_by(owner)] for owner in range(self.ranks)]
        pieces = [iter(each) for each in self._exchanged(sent, counts, like)]
        return [next(pieces[matrix.owner]).view(-1, matrix.parameter.shape[1]) for matrix in self.bucket]

    def _owned_by(self, owner: int) -> list[Matrix]:
        return [matrix for matrix in self.bucket if matrix.owner == owner]

    def _exchanged(
        self, sent: Sequence[Sequence[Tensor]], counts: Sequence[Sequence[int]], like: Tensor
    ) -> list[tuple[Tensor, ...]]:
        """`sent[r]` goes to rank r; from rank r come `counts[r]` numbers, flat."""
        buffer = torch.cat([like.new_empty(0), *(piece.flatten() for each in sent for piece in each)])
        expected = [sum(each) for each in counts]
        received = like.new_empty(sum(expected))
        sizes = [sum(piece.numel() for piece in each) for each in sent]
        dist.all_to_all_single(received, buffer, expected, sizes, group=self.process_group)
        return [flat.split(list(each)) for flat, each in zip(received.split(expected), counts, strict=True)]
