"""Texts in slots have the tokens that each would have alone, whatever is beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.hooks.contracts import Draw, Routing, Row
from penstock.moe_core.glm.step import GlmStep, obstacle
from penstock.moe_core.layers.slot_decoder import ModelSlots

PROMPTS = ([5, 6, 7], [1], [9, 8, 7, 6, 5, 4], [2, 3])


def alone(model, prompt: Sequence[int], tokens: int, **sampling) -> list[int]:
    return model.generate(torch.tensor([list(prompt)]), tokens=tokens, **sampling)[0, len(prompt) :].tolist()


def continued(decoder, texts: dict[int, Sequence[int]], tokens: int, draws: dict[int, Draw] | None = None):
    """The texts by slot; text number n joins after n steps and leaves when it has its tokens."""
    waiting, fresh, found = list(texts.items()), dict[int, list[int]](), {slot: list[int]() for slot in texts}
    while waiting or fresh:
        if waiting:
            slot, prompt = waiting.pop(0)
            fresh[slot] = list(prompt)
        rows = [Row(slot, each, (draws or {}).get(slot, Draw())) for slot, each in fresh.items()]
        for row, chosen in zip(rows, decoder.step(rows), strict=True):
            assert chosen.token is not None
            found[row.slot].append(chosen.token)
            fresh[row.slot] = [chosen.token]
            if len(found[row.slot]) == tokens:
                del fresh[row.slot]
    return found


@pytest.mark.parametrize("slots", [(0, 1, 2, 3), (3, 0, 5, 4)])
def test_texts_that_join_and_leave_are_those_of_each_alone(make_model, slots):
    model = make_model()
    found = continued(model.slot_decoder(6, 32), dict(zip(slots, PROMPTS, strict=True)), 9)
    assert found == {slot: alone(model, prompt, 9) for slot, prompt in zip(slots, PROMPTS, strict=True)}


def test_a_seed_is_one_text_whatever_is_beside_it(make_model):
    model = make_model()
    draws = {0: Draw(0.8), 1: Draw(), 2: Draw(1.2, 5), 3: Draw(0.8)}
    decoder = model.slot_decoder(4, 32)
    for slot in range(4):
        decoder.begin(slot, 10 + slot)
    found = continued(decoder, dict(enumerate(PROMPTS)), 9, draws)
    for slot, prompt in enumerate(PROMPTS):
        draw = draws[slot]
        expected = alone(model, prompt, 9, temperature=draw.temperature, top_k=draw.top_k, seed=10 + slot)
        assert found[slot] == expected


def test_a_slot_that_was_cut_copied_or_read_in_parts_goes_on_like_one_that_was_read_at_once(make_model):
    model, prompt = make_model(), [4, 3, 2, 1, 9, 8]
    decoder = model.slot_decoder(3, 32)
    (whole,) = decoder.step([Row(0, prompt, Draw(logprobs=5))])
    decoder.read(1, prompt[:2])
    decoder.read(1, prompt[2:5])
    (parts,) = decoder.step([Row(1, prompt[5:], Draw(logprobs=5))])
    decoder.read(0, [7, 7, 7])
    assert decoder.length(0) == 9
    decoder.copy(0, 2, 4)
    decoder.cut(0, 3)
    assert [decoder.length(slot) for slot in range(3)] == [3, 6, 4]
    again = decoder.step([Row(2, prompt[4:], Draw(logprobs=5)), Row(0, prompt[3:], Draw(logprobs=5))])
    for found in (parts, *again):
        assert found.token == whole.token
        assert found.logprob == pytest.approx(whole.logprob, abs=1e-4)
        assert [token for token, _ in found.top] == [token for token, _ in whole.top]


def test_what_is_told_of_a_token_is_the_log_softmax_of_the_model(make_model):
    model = make_model()
    logprob_V = model.logits(model(torch.tensor([PROMPTS[0]])).hidden_BSD)[0, -1].log_softmax(-1)
    (chosen,) = model.slot_decoder(1, 8).step([Row(0, PROMPTS[0], Draw(logprobs=3))])
    assert chosen.token is not None
    assert chosen.logprob == pytest.approx(float(logprob_V[chosen.token]), abs=1e-4)
    assert [token for token, _ in chosen.top] == logprob_V.topk(3).indices.tolist()
    assert [value for _, value in chosen.top] == pytest.approx(logprob_V.topk(3).values.tolist(), abs=1e-4)


def test_experts_are_counted_once_a_token(make_model):
    model = make_model()
    decoder = model.slot_decoder(2, 600)
    for _ in range(2):
        continued(decoder, {0: [1, 2, 3], 1: [4]}, 300)  # more passes than are kept
        loads = decoder.expert_loads()
        read = decoder.length(0) + decoder.length(1)
        for layer, router in model.routers.items():
            assert loads[layer].shape == (router.experts,)
            assert loads[layer].sum() == router.k * read
        assert all(not each.any() for each in decoder.expert_loads().values())
        for slot in (0, 1):
            decoder.cut(slot, 0)


def test_a_slot_without_room_and_logits_that_are_nan_are_said(make_model):
    model = make_model()
    decoder = model.slot_decoder(2, 4)
    with pytest.raises(ValueError, match="a slot holds 4 positions, but 5 are needed"):
        decoder.read(0, [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="3 are to be copied"):
        decoder.copy(0, 1, 3)
    with torch.no_grad():
        model.norm.weight.fill_(np.nan)
    assert decoder.step([Row(0, [1]), Row(1, [2], Draw(1.0))]) == [type(decoder.step([Row(0, [1])])[0])(None)] * 2


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"use_qk_norm": False, "attention_bias": True},
        {"n_shared_experts": 2, "k": 1},
        {"num_key_value_heads": 4, "n_routed_experts": 16, "k": 3},
        {"first_k_dense_replace": 3},
        {"partial_rotary_factor": 1.0, "tie_word_embeddings": True},
    ],
)
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_the_fast_pass_computes_what_the_model_does(make_model, sizes, rows):
    model = make_model(**sizes)
    assert obstacle(model) is None
    fast, plain = (ModelSlots(model, model.new_slots(rows, 16), step) for step in (GlmStep(model, 16), None))
    for decoder in (fast, plain):
        decoder.read(0, [3, 1, 4])
        decoder.read(0, [1, 5, 9, 2, 6])
    for position in range(6):
        count = max(1, rows - position % 2)  # the last text pauses at every other position
        given = [Row(slot, [(7 * slot + position) % 96], Draw(logprobs=8)) for slot in range(count)]
        for one, other in zip(fast.step(given), plain.step(given), strict=True):
            assert one.token == other.token
            assert [value for _, value in one.top] == pytest.approx([value for _, value in other.top], abs=1e-4)
    expected = plain.expert_loads()
    assert {layer: load.tolist() for layer, load in fast.expert_loads().items()} == {
        layer: load.tolist() for layer, load in expected.items()
    }


class HashRouter(nn.Module):
    """An expert for each token, by its id."""

    asks, k, e_score_correction_bias = frozenset({"token_T"}), 1, None

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, hidden_TD: Tensor, *, token_T: Tensor) -> Routing:
        score_TE = functional.one_hot(token_T % self.experts, self.experts).float()
        return Routing((token_T % self.experts)[:, None], torch.ones(len(token_T), 1), score_TE, score_TE)


def test_a_router_that_asks_for_tokens_gets_them(make_model):
    model = make_model()
    for layer in model.routers:
        model.layers[layer].mlp.gate = HashRouter(6)
    assert obstacle(model) == "a router asks for the ids of its tokens"
    found = continued(model.slot_decoder(4, 32), dict(enumerate(PROMPTS)), 5)
    assert found == {slot: alone(model, prompt, 5) for slot, prompt in enumerate(PROMPTS)}


def test_no_more_likely_tokens_are_told_than_there_are(make_model):
    (chosen,) = make_model(vocab_size=12).slot_decoder(1, 8).step([Row(0, [1], Draw(logprobs=20))])
    assert sorted(token for token, _ in chosen.top) == list(range(12))


@pytest.mark.parametrize("lacks", ["norms precede output projections", "it computes in fp32"])
def test_what_the_fast_pass_lacks_the_model_computes(make_model, lacks):
    model = make_model(sub_norm="norms" in lacks)
    if "fp32" in lacks:
        model.compute_dtype = torch.bfloat16
    assert obstacle(model) == lacks
    found = continued(model.slot_decoder(4, 32), dict(enumerate(PROMPTS)), 5)
    assert all(len(each) == 5 for each in found.values())
