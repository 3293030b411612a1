"""What a model does with what is known about its tokens: padding, documents, positions, and what routers ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Inputs, Routing
from penstock.hooks.problems import ProblemError
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
}
LENGTHS = (7, 3, 5)


class Watched(nn.Module):
    """A token's id and hidden state choose two experts; remembers what it was called with."""

    asks = frozenset({"token_T", "expert_TK"})
    e_score_correction_bias = None
    k = 2

    def __init__(self, hidden_size: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.randn(experts, hidden_size))
        self.seen: list[Tensor] = []

    def forward(self, hidden_TD: Tensor, *, token_T: Tensor, expert_TK: Tensor | None = None) -> Routing:
        self.seen.append(token_T)
        logits_TE = hidden_TD.float() @ self.weight.T + torch.arange(self.experts) * (token_T[:, None] % 3)
        score_TE = logits_TE.softmax(-1)
        chosen_TK = score_TE.topk(self.k).indices if expert_TK is None else expert_TK
        return Routing(chosen_TK, score_TE.gather(1, chosen_TK), logits_TE, score_TE)


class Silent(Watched):
    """The same for a router that asks for nothing."""

    asks = frozenset[str]()

    def forward(self, hidden_TD: Tensor) -> Routing:
        return super().forward(hidden_TD, token_T=torch.zeros(len(hidden_TD), dtype=torch.int64))


def mixture(router: Any = Watched) -> GlmMoe:
    torch.manual_seed(0)
    config = GlmMoeConfig(**SIZES, n_routed_experts=6, moe_intermediate_size=16)
    return redrawn(GlmMoe(config, make_router=lambda layer, **sizes: router(**sizes)))


def grown(router: Any = Watched) -> FrozenBase:
    torch.manual_seed(0)
    base = GlmMoe(GlmMoeConfig(**SIZES, first_k_dense_replace=3), make_router=lambda layer, **sizes: router(**sizes))
    return redrawn(FrozenBase(base, layers=[1, 2], experts=6, make_router=lambda layer, **sizes: router(**sizes)))


def redrawn(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


MODELS = pytest.mark.parametrize("make", [mixture, grown])


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 96, (length,), generator=generator) for length in LENGTHS]


def padded(side: str) -> Any:
    """The texts as rows of one batch."""
    token_BS = torch.full((len(LENGTHS), max(LENGTHS)), 95)
    real_BS = torch.zeros_like(token_BS, dtype=torch.bool)
    for row, text in enumerate(texts()):
        columns = slice(0, len(text)) if side == "right" else slice(-len(text), None)
        token_BS[row, columns], real_BS[row, columns] = text, True
    return Inputs(token_BS, real_BS)


def logits(model: Any, inputs: Inputs | Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return model.logits(model(inputs, **options).hidden_BSD)


@MODELS
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_text_has_the_logits_that_it_has_alone(make: Callable[[], Any], side: str) -> None:
    model, inputs = make(), padded(side)
    together = logits(model, inputs)
    for row, text in enumerate(texts()):
        alone = logits(model, text[None])[0]
        torch.testing.assert_close(together[row][inputs.real_BS[row]], alone, rtol=1e-4, atol=1e-4)


@MODELS
@pytest.mark.parametrize("side", ["left", "right"])
def test_routers_see_real_tokens_alone_and_padding_has_no_slot(make: Callable[[], Any], side: str) -> None:
    model, inputs = make(), padded(side)
    real_T = inputs.real_BS.flatten()
    for routing in model(inputs).routings.values():
        assert routing.expert_TK.shape == (inputs.token_BS.numel(), 2)
        assert torch.equal(routing.kept_TK, real_T[:, None].expand(-1, 2))
        assert not torch.cat((routing.weight_TK, routing.score_TE), dim=1)[~real_T].any()
    for router in model.routers.values():
        [seen_T] = router.seen
        assert torch.equal(seen_T, inputs.token_BS[inputs.real_BS])


@MODELS
def test_padding_changes_neither_loss_nor_gradient(make: Callable[[], Any]) -> None:
    model, inputs = make(), padded("left")
    target_BS = inputs.token_BS.roll(-1, 1)
    model.next_token_loss(inputs, target_BS).loss.backward()
    together = {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}
    model.zero_grad()
    for row, text in enumerate(texts()):
        model.next_token_loss(text[None], target_BS[row][inputs.real_BS[row]][None]).loss.backward()
    for name, each in model.named_parameters():
        if each.requires_grad:
            torch.testing.assert_close(together[name], each.grad, rtol=1e-4, atol=1e-4)


@MODELS
def test_documents_of_a_row_have_the_logits_that_they_have_alone(make: Callable[[], Any]) -> None:
    model, parts = make(), texts()
    token_BS = torch.cat(parts)[None]
    document_BS = torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])[None]
    restarted_BS = torch.cat([torch.arange(len(part)) for part in parts])[None]
    for position_BS in (None, restarted_BS):
        packed = logits(model, Inputs(token_BS, document_BS=document_BS, position_BS=position_BS))[0]
        for part, found in zip(parts, packed.split([len(part) for part in parts]), strict=True):
            torch.testing.assert_close(found, logits(model, part[None])[0], rtol=1e-4, atol=1e-4)


def test_given_positions_turn_the_heads() -> None:
    model, token_BS = mixture(), texts()[0][None]
    counted_BS = torch.arange(7)[None]
    plain = logits(model, token_BS)
    torch.testing.assert_close(logits(model, Inputs(token_BS, position_BS=counted_BS)), plain, rtol=1e-6, atol=1e-6)
    assert (logits(model, Inputs(token_BS, position_BS=3 * counted_BS)) - plain).abs().max() > 1e-3


@MODELS
@pytest.mark.parametrize("use_cache", [True, False])
def test_unequal_prompts_continue_as_each_does_alone(make: Callable[[], Any], use_cache: bool) -> None:
    model = make()
    together_BS = model.generate(padded("left"), tokens=8, use_cache=use_cache)
    for row, text in enumerate(texts()):
        alone_S = model.generate(text[None], tokens=8)[0]
        assert torch.equal(together_BS[row, -len(alone_S) :], alone_S)


@MODELS
def test_a_cache_remembers_which_positions_are_padding(make: Callable[[], Any]) -> None:
    model, inputs, more_BS = make(), padded("left"), torch.tensor([[1, 2], [3, 4], [5, 6]])
    cache = model.new_cache(3, 9)
    logits(model, inputs, cache=cache)
    found = torch.cat([logits(model, each, cache=cache) for each in more_BS.split(1, dim=1)], dim=1)
    for row, text in enumerate(texts()):
        alone = logits(model, torch.cat((text, more_BS[row]))[None])[0, -2:]
        torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-4)


@MODELS
def test_a_given_choice_is_weighed_with_a_gradient(make: Callable[[], Any]) -> None:
    model, inputs = make(), padded("left")
    expert_BSK = torch.tensor([4, 5]).expand(*inputs.token_BS.shape, 2)
    output = model.next_token_loss(Inputs(inputs.token_BS, inputs.real_BS, expert_BSK={1: expert_BSK}), inputs.token_BS)
    kept_TK = output.routings[1].kept_TK
    assert torch.equal(output.routings[1].expert_TK[kept_TK], expert_BSK.flatten(0, 1)[kept_TK])
    assert not torch.equal(output.routings[2].expert_TK, output.routings[1].expert_TK)
    output.loss.backward()
    assert model.routers[1].weight.grad.any()


@MODELS
@pytest.mark.parametrize(
    ("layer", "expert_BSK", "said"),
    [
        (99, torch.zeros(1, 7, 2, dtype=torch.int64), "no router in layer 99"),
        (1, torch.zeros(1, 7, 1, dtype=torch.int64), r"layer 1 takes int64 \[7, 2\] .*not torch.int64 \[7, 1\]"),
        (1, torch.zeros(1, 6, 2, dtype=torch.int64), r"not torch.int64 \[6, 2\]"),
        (1, torch.zeros(1, 7, 2), "not torch.float32"),
        (1, torch.full((1, 7, 2), 99), "layer 1 has experts 0 to"),
        (1, torch.full((1, 7, 2), -1), "layer 1 has experts 0 to"),
    ],
)
def test_a_given_choice_that_no_layer_can_take_is_refused(
    make: Callable[[], Any], layer: int, expert_BSK: torch.Tensor, said: str
) -> None:
    with pytest.raises(ProblemError, match=said):
        make()(Inputs(texts()[0][None], expert_BSK={layer: expert_BSK}))


@MODELS
def test_a_router_that_asks_for_nothing_is_given_nothing(make: Callable[[Any], Any]) -> None:
    model, token_BS = make(Silent), texts()[0][None]
    model(Inputs(token_BS, torch.ones_like(token_BS, dtype=torch.bool)))
    with pytest.raises(ProblemError, match=r"layer 1 \(Silent\) does not accept given experts"):
        model(Inputs(token_BS, expert_BSK={1: torch.zeros(1, 7, 2, dtype=torch.int64)}))


@MODELS
def test_what_a_model_cannot_read_is_refused_by_name(make: Callable[[], Any]) -> None:
    model, token_BS = make(), texts()[0][None]
    unread = {
        "type_BS": Inputs(token_BS, type_BS=torch.zeros_like(token_BS)),
        "encoder": Inputs(token_BS, encoder=Inputs(token_BS)),
    }
    for name, inputs in unread.items():
        with pytest.raises(ProblemError, match=f"GlmMoe cannot read `{name}`"):
            model(inputs)
        with pytest.raises(ProblemError, match=f"generation cannot read `{name}`"):
            model.generate(inputs, tokens=1)
    cache = model.new_cache(1, 14)
    model(token_BS, cache=cache)
    with pytest.raises(ValueError, match="`document_BS` with a filled cache"):
        model(Inputs(token_BS, document_BS=torch.zeros_like(token_BS)), cache=cache)
    with pytest.raises(ValueError, match="put padding on the left"):
        model.generate(padded("right"), tokens=1)


@pytest.mark.parametrize("field", ["real_BS", "document_BS", "position_BS", "type_BS"])
def test_a_field_of_other_positions_than_the_tokens_is_refused_by_name(field: str) -> None:
    token_BS = torch.zeros(2, 7, dtype=torch.int64)
    value_BS = torch.ones(2, 6, dtype=torch.bool if field == "real_BS" else torch.int64)
    with pytest.raises(ProblemError, match=rf"inputs\.{field}: has shape \[2, 6\], but the tokens have \[2, 7\]"):
        replace(Inputs(token_BS), **{field: value_BS})


@MODELS
def test_a_mask_that_is_not_one_of_the_tokens_is_refused_by_name(make: Callable[[], Any]) -> None:
    model, token_BS = make(), texts()[0][None]
    with pytest.raises(ProblemError, match=r"inputs\.real_BS: is torch\.int64, not bool"):
        Inputs(token_BS, torch.ones_like(token_BS))
    for mask_BS, said in ((torch.ones(7, dtype=torch.bool), r"shape \[7\]"), (torch.ones(1, 7), "torch.float32")):
        with pytest.raises(ProblemError, match=rf"inputs\.mask_BS: .*{said}"):
            model.next_token_loss(token_BS, token_BS, mask_BS)
