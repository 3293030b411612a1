"""Every module that owns parameters is called when the loss is computed: sharding, adapters and casts act on calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.bert.model import bert
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.gpt.model import gpt

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


def in_their_order(model: Any, compute: Callable[[Any], Any]) -> list[int]:
    """The indices of the blocks in the order in which they were called."""
    ran: list[int] = []
    for index, block in enumerate(model.blocks()):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    compute(model)
    return ran


SIZES = {"vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.mark.parametrize("make", [gpt, bert])
def test_blocks_run_once_each_in_their_order(make):
    inner = {} if make is gpt else {"intermediate_size": 24}
    assert in_their_order(make(**SIZES, **inner), lambda model: model(TOKENS)) == [0, 1, 2]


@pytest.mark.parametrize("adapted", [False, True])
def test_blocks_of_a_frozen_base_are_the_bases(make_model, make_router, adapted):
    base = make_model(first_k_dense_replace=3)
    model = FrozenBase(base, layers=[1, 2], experts=4, make_router=make_router) if adapted else base
    assert model.blocks() == list(base.layers)
    assert in_their_order(model, lambda each: each(TOKENS)) == [0, 1, 2]
