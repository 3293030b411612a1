"""Every module that owns parameters is called when the loss is computed: sharding, adapters and casts act on calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.frozen_base.model import FrozenBase

TOKENS = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(0))


class Coarse:
    """Weights in steps of 1/64."""

    roles = frozenset({ParameterRole.MATRIX, ParameterRole.EXPERT})

    def fake_quantize(self, weight):
        return (weight * 64).round() / 64 + (weight - weight.detach())

    def packed_bytes(self, shape):
        return 0


def never_called(model: Any, within: torch.nn.Module) -> set[str]:
    owners = {name: each for name, each in within.named_modules() if [*each.parameters(recurse=False)]}
    called: set[str] = set()
    handles = [each.register_forward_hook(lambda *_, name=name: called.add(name)) for name, each in owners.items()]
    model.next_token_loss(TOKENS[:, :-1], TOKENS[:, 1:]).loss.backward()
    for handle in handles:
        handle.remove()
    return owners.keys() - called


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("quantizer", [None, Coarse()], ids=["plain", "quantized"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_module_with_parameters_is_called(make_model, tied, quantizer, qk_norm):
    model = make_model(quantizer=quantizer, tie_word_embeddings=tied, use_qk_norm=qk_norm, attention_bias=True)
    assert never_called(model, model) == set()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("place", ["beside", "in_place"])
def test_every_module_of_the_adapters_is_called(make_model, make_router, place):
    model = FrozenBase(
        make_model(first_k_dense_replace=3),
        layers=[1, 2],
        place=place,
        experts=4,
        make_router=make_router,
    )
    assert never_called(model, model.adapters) == set()


def test_logits_are_a_call_of_the_head(make_model):
    model, called = make_model(), []
    model.lm_head.register_forward_hook(lambda *_: called.append(True))
    model.logits(torch.randn(2, 3, 32))
    assert called
