"""A step that counts first, over a base that stays as it is: what the second pass leaves out, no bit tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from penstock_hf_models.build import hf_model
from torch import Tensor

from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.routers.balancers import LossFree
from penstock.routers.losses import GlobalLoss
from penstock.routers.topk import SigmoidTopK
from penstock.train.balancing import Balancing

VOCABULARY, WIDTH, PARTS, LENGTH, STEPS = 96, 32, 4, 12, 3
TOKENS = PARTS * 2 * LENGTH
GPT_NEO = {
    "hidden_size": WIDTH,
    "num_layers": 4,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 2]],
    "max_position_embeddings": 32,
    "window_size": 8,  # narrower than the texts: transformers' own attention, which returns its weights
}
GLM = GlmMoeConfig(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=48,
    first_k_dense_replace=4,
)


class Forgetful(FrozenBase):
    """Computes everything again."""

    remembering: Any = None


def router(layer: int, *, hidden_size: int, experts: int) -> Any:
    return SigmoidTopK(hidden_size=hidden_size, experts=experts, k=2)


def build(kind: type[FrozenBase], base: str) -> Any:
    torch.manual_seed(0)
    made: Any = (
        GlmMoe(GLM, make_router=router)
        if base == "glm-moe"
        else hf_model(model_type="gpt_neo", settings=GPT_NEO, vocab_size=VOCABULARY)
    )
    model = kind(made, layers=[2, 3], make_router=router, experts=4, expert_size=16)
    with torch.no_grad():
        for parameter in model.parameters():  # what begins at zero would hide a difference
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def first_layer(model: Any) -> Any:
    return model.base.layers[0].mlp if isinstance(model.base, GlmMoe) else model.base.network.transformer.h[0].mlp


def step(model: Any, balancing: Balancing, number: int) -> list[Tensor]:
    """Loss, penalty, choices and gradients of a step's micro-batches."""
    generator = torch.Generator().manual_seed(number)
    windows = torch.randint(0, VOCABULARY, (PARTS, 2, LENGTH + 1), generator=generator)
    seen: list[Tensor] = []
    balancing.begin(((window_BS[:, :-1], None) for window_BS in windows), tokens=TOKENS)
    for window_BS in windows:
        result = model.next_token_loss(window_BS[:, :-1], window_BS[:, 1:])
        penalty, _ = balancing.penalty(result.routings, sequences=2)
        assert penalty is not None
        (result.loss / TOKENS + penalty).backward()
        seen += [result.loss.detach(), penalty.detach()]
        seen += [each for routing in result.routings.values() for each in (routing.expert_TK, routing.score_TE)]
    return [*seen, *(each.grad.clone() for each in model.parameters() if each.requires_grad)]


def trained(kind: type[FrozenBase], base: str) -> tuple[list[Tensor], int]:
    """Everything that can be seen of some steps, and how often the first layer was computed."""
    model = build(kind, base)
    balancing = Balancing(model, {"global": GlobalLoss(0.5)}, [LossFree(0.01)], parts=PARTS)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    first_layer(model).register_forward_hook(count)
    seen: list[Tensor] = []
    for number in range(STEPS):
        seen += step(model, balancing, number)
        optimizer.step()
        optimizer.zero_grad()
        load, _ = balancing.finish(tokens_seen=(number + 1) * TOKENS)
        seen.append(load.counts_LE)
    return [*(each.detach() for each in seen), *model.trained_state().values(), torch.get_rng_state()], calls


@pytest.mark.parametrize("base", ["glm-moe", "gpt_neo"])
def test_steps_have_the_bits_of_those_that_compute_everything_twice(base: str) -> None:
    (ours, once), (expected, twice) = trained(FrozenBase, base), trained(Forgetful, base)
    assert len(ours) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(ours, expected, strict=True))
    assert (once, twice) == (STEPS * PARTS, 2 * STEPS * PARTS)


def test_counting_needs_no_head() -> None:
    model = build(FrozenBase, "gpt_neo")
    balancing = Balancing(model, {"global": GlobalLoss(0.5)}, [], parts=2)
    model.base.network.lm_head.register_forward_hook(lambda *_: pytest.fail("the head was computed"))
    balancing.begin([(torch.zeros(1, LENGTH, dtype=torch.long), None)] * 2, tokens=2 * LENGTH)
    balancing.abandon()


@pytest.mark.parametrize("fails", ["while it counts", "after it counted"])
def test_a_step_that_fails_leaves_nothing_behind(fails: str) -> None:
    model = build(FrozenBase, "glm-moe")
    balancing = Balancing(model, {"global": GlobalLoss(0.5)}, [], parts=PARTS)
    calls: list[None] = []
    first_layer(model).register_forward_hook(lambda *_: calls.append(None))
    token_BS = torch.arange(LENGTH).view(1, LENGTH)
    too_large_BS = token_BS + VOCABULARY
    if fails == "while it counts":
        with pytest.raises(IndexError):
            balancing.begin([(token_BS, None), (too_large_BS, None)], tokens=2 * LENGTH)
    else:
        balancing.begin([(token_BS, None), (token_BS, None)], tokens=2 * LENGTH)
        assert len(calls) == 1
        with pytest.raises(IndexError):
            model.next_token_loss(too_large_BS, token_BS)
        balancing.abandon()
    model(token_BS)
    assert len(calls) == 2
