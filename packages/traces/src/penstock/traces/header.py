"""What a trace's header may say. Every reader takes its numbers as they are, so they are checked once, here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WORD_BITS = "domain_word_bits"
"""`word_information` of each layer: what the words of the domains alone make of its experts."""


def check_header(header: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Raises ValueError for a value that does not fit a trace of this `shape` (steps, layers, experts)."""
    steps, layers, experts = shape
    if "layers" in header:
        _check_layers(header["layers"], layers)
    if "k" in header:
        _check_k(header["k"], experts)
    for name in ("hidden_size", "tokens", "dropped_warm_up"):
        least = 1 if name == "hidden_size" else 0
        value = header.get(name)
        if value is not None and not _is_integer(value, least):
            raise ValueError(f"the header's '{name}' is {value!r}; it must be an integer of at least {least}")
    if "steps" in header and not _is_list_of(header["steps"], steps, lambda each: _is_integer(each, 0)):
        raise ValueError(f"the header's 'steps' must be a list of {steps} integers, one per step, none below 0")
    if "domains" in header and not _is_list_of(header["domains"], steps, lambda each: isinstance(each, str)):
        raise ValueError(f"the header's 'domains' must be a list of {steps} names, one per step")
    if WORD_BITS in header and not _is_list_of(header[WORD_BITS], layers, _is_bits):
        raise ValueError(f"the header's '{WORD_BITS}' must be a list of {layers} numbers, one per layer, none below 0")


def _check_layers(layers: Any, rows: int) -> None:
    """A layer with two mixtures has two rows."""
    if not _is_list_of(layers, rows, lambda each: _is_integer(each, 0)):
        raise ValueError(f"the header's 'layers' must be a list of {rows} integers, one per layer, none below 0")


def _check_k(k: Any, experts: int) -> None:
    """One number, or one per layer."""
    if not all(_is_integer(each, 1) and each <= experts for each in (k if isinstance(k, list) else [k])):
        raise ValueError(f"the header's 'k' (experts per token) is {k!r}; it must be from 1 to {experts}")


def _is_list_of(value: Any, length: int, holds: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == length and all(map(holds, value))


def _is_bits(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_integer(value: Any, least: int) -> bool:
    return type(value) is int and value >= least
