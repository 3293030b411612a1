# pyright: basic
"""How laws of quantizers see a weight through a quantizer of either contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject
from penstock.hooks.contracts import ParameterRole

MATRIX = (16, 256)


def transform_of(subject: Subject, quantizer: Any, shape: tuple[int, ...]) -> Any:
    """What a weight of this shape goes through: one function in contract 1, a module of its own from 2 on."""
    return quantizer.fake_quantize if subject.component.contract < 2 else site_of(quantizer, shape)


def quantized(subject: Subject, quantizer: Any, weight: Tensor) -> Tensor:
    return transform_of(subject, quantizer, tuple(weight.shape))(weight)


def site_of(quantizer: Any, shape: tuple[int, ...]) -> Any:
    """The module of a weight of this shape, with the role that such a weight usually has."""
    usual = ParameterRole.EXPERT if len(shape) > 2 else ParameterRole.MATRIX
    return quantizer.site(shape, usual if usual in quantizer.roles else min(quantizer.roles))


def built_with_sites(subject: Subject) -> Any:
    """The quantizer, or `NotApplicable` for one of contract 1."""
    if subject.component.contract < 2:
        raise NotApplicable("the component is of contract 1")
    return subject.build()


def drawn_weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


@contextmanager
def same_draws() -> Iterator[None]:
    """Makes a quantizer that rounds at random comparable; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
