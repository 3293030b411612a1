"""Positions and visibility of the tokens in a pass: causality, padding, documents, and cached positions.

Shape suffixes: B batch, S new positions, C cached and new positions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from penstock.hooks.contracts import Inputs
from penstock.hooks.problems import Problem, ProblemError


class Cached(Protocol):
    """A cache of the `length` positions before this pass. `real_BC` is False for padding among them; None: all real."""

    length: int
    real_BC: Tensor | None


@runtime_checkable
class PlacedCache(Protocol):
    """A cache whose texts are not equally long, and which knows the positions of their next tokens."""

    def positions(self, inputs: Inputs) -> Positions: ...


class Positions(NamedTuple):
    """For one pass: `position`, [S] or [B, S], is the input of position embeddings. `visible`, broadcast to [B, N, S,
    C], is True if a new position sees another; None: plain causal."""

    position: Tensor
    visible: Tensor | None


def positions(inputs: Inputs, cache: Cached | None = None) -> Positions:
    """The positions of the tokens that follow those of the cache. Raises ValueError for documents with a cache."""
    if isinstance(cache, PlacedCache):
        return cache.positions(inputs)
    cached = 0 if cache is None else cache.length
    if cached and inputs.document_BS is not None:
        raise ValueError("`document_BS` with a filled cache: read the documents in one pass, without the cache")
    real_BC = known_real(inputs, cache)
    return Positions(_position(inputs, cached, real_BC), _visible(inputs, cached, real_BC))


def restarted(visible: Tensor) -> Tensor:
    """Positions [B, S] counted from 0 in each document, of the real tokens alone: for embeddings that are learned for
    every position, so that a document means the same wherever it stands in its row."""
    return visible.squeeze(1).sum(dim=-1) - 1  # a token sees itself and those before it


def require_embedded(inputs: Inputs, position: Tensor, most: int, *, cached: int = 0) -> None:
    """Raises `ProblemError` for a position beyond the `most` that have a learned embedding. Reads positions, for which
    a GPU has to be waited for, only where the length alone does not tell."""
    counted = inputs.position_BS is None
    if position.numel() == 0 or (counted and cached + inputs.token_BS.shape[1] <= most):
        return
    if (last := int(position.max())) >= most:
        what = f"position {last} has no embedding: the model has {most}, counted from 0"
        raise ProblemError(Problem("bad-value", what, "inputs", "shorten the text"))


def known_real(inputs: Inputs, cache: Cached | None) -> Tensor | None:
    """False for padding among the cached and the new positions [B, C]; None if all are real."""
    before_BC = None if cache is None else cache.real_BC
    if cache is None or not cache.length or (before_BC is None and inputs.real_BS is None):
        return inputs.real_BS
    new_BS = torch.ones_like(inputs.token_BS, dtype=torch.bool) if inputs.real_BS is None else inputs.real_BS
    if before_BC is None:
        before_BC = new_BS.new_ones(len(new_BS), cache.length)
    return torch.cat((before_BC, new_BS), dim=1)


def _position(inputs: Inputs, cached: int, real_BC: Tensor | None) -> Tensor:
    if inputs.position_BS is not None:
        return inputs.position_BS
    if real_BC is None:
        return torch.arange(cached, cached + inputs.token_BS.shape[1], device=inputs.token_BS.device)
    return (real_BC.cumsum(dim=1) - 1).clamp(min=0)[:, cached:]


def _visible(inputs: Inputs, cached: int, real_BC: Tensor | None) -> Tensor | None:
    length, device = inputs.token_BS.shape[1], inputs.token_BS.device
    unhidden = real_BC is None and inputs.document_BS is None
    if unhidden and not (cached and length > 1):
        return None  # causal attention is enough
    row_S1 = torch.arange(cached, cached + length, device=device)[:, None]
    column_C = torch.arange(cached + length, device=device)
    visible = row_S1 >= column_C
    if unhidden:
        return visible
    if real_BC is not None:
        visible = visible & real_BC.bool()[:, None, None, :]
    if inputs.document_BS is not None:
        visible = visible & (inputs.document_BS[:, None, :, None] == inputs.document_BS[:, None, None, :])
    return visible | (row_S1 == column_C)  # the softmax of a row that sees nothing is undefined
