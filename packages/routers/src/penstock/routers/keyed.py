"""Random numbers as a pure function of their input: no generator, no state.

A token's numbers depend only on the bits of its own row and a seed. So the global generators are never used, a resumed
run needs no state to continue with the same bits, and a repeated forward pass (activation checkpointing, counting
before the first backward) draws the same numbers. A stateful generator would route the repeated pass differently.

Integer arithmetic wraps at 64 bits, so every device gives the same numbers.

Shape suffixes: T tokens, D columns, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The increment and the two multipliers of SplitMix64 (Steele, Lea, Flood 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def keys_of_rows(row_TD: Tensor, seed: int) -> Tensor:
    """One int64 key per row, from every bit of the row in fp32 and the seed; -0 counts as 0."""
    bits_TD = (row_TD.detach().float() + 0.0).contiguous().view(torch.int32).long()
    return keys_of_integers(_mixed(bits_TD ^ _stream(row_TD.shape[-1], row_TD.device)).sum(dim=-1), seed)


def keys_of_integers(value_T: Tensor, seed: int) -> Tensor:
    """One int64 key per integer, from the integer and the seed."""
    return _mixed(_mixed(value_T) ^ (seed % 2**63))


def uniform(key_T: Tensor, experts: int) -> Tensor:
    """fp32 [T, E], uniform in (0, 1): never 0 and never 1, so that its logarithms are finite."""
    drawn_TE = _mixed(key_T.unsqueeze(-1) + _stream(experts, key_T.device))
    return (_shifted(drawn_TE, 41).float() + 0.5) / 2**23


def gumbel(key_T: Tensor, experts: int) -> Tensor:
    """fp32 [T, E], standard Gumbel: the k highest of logits plus it are k draws without replacement from their softmax
    (arXiv 1903.06059)."""
    return -(-uniform(key_T, experts).log()).log()


def _stream(length: int, device: torch.device) -> Tensor:
    return _mixed(torch.arange(1, length + 1, device=device) * _GOLDEN)


def _mixed(value: Tensor) -> Tensor:
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Right shift that fills with zeros: int64 shifts copy the sign."""
    return (value >> bits) & (2 ** (64 - bits) - 1)
