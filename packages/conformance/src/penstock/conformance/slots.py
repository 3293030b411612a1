"""What holds of every `penstock.hooks.contracts.SlotDecoder`, whatever computes it: each function raises `Violation`.

The laws of architectures ask it of a model's own decoder, and tests may ask it of any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from penstock.conformance.law import NotApplicable, expect
from penstock.hooks.contracts import Chosen, Draw, Row, SlotDecoder

MakeSlots = Callable[[int, int], SlotDecoder]
"""A new decoder with so many slots, each for so many positions."""
TEXTS = ((5, 6, 7), (1,), (9, 8, 7, 6))
POSITIONS, NEW, OTHER = 16, 4, 11
"""Positions of a slot, new tokens of a text, and a token that no text has."""
GREEDY, DRAWN = Draw(logprobs=3), Draw(temperature=1.0)


def expect_texts_as_alone(make: MakeSlots) -> None:
    """Texts that join and leave between steps have the tokens and log-probabilities of each alone."""
    alone = [continued(make(1, POSITIONS), {0: text})[0] for text in TEXTS]
    slots = (2, 0, 1)
    together = continued(make(len(TEXTS), POSITIONS), dict(zip(slots, TEXTS, strict=True)))
    for slot, text, expected in zip(slots, TEXTS, alone, strict=True):
        expect_same(together[slot], expected, f"text {list(text)} among others")


def expect_a_cut_text_to_go_on(make: MakeSlots) -> None:
    """A slot that was cut and read again goes on like one that was not."""
    text = TEXTS[2]
    decoder = make(1, POSITIONS)
    decoder.read(0, (*text[:2], OTHER, OTHER))
    decoder.cut(0, 2)
    _expect_to_go_on(decoder, 0, text, "cut to 2 tokens", _read_at_once(make, text))


def expect_a_copied_text_to_go_on(make: MakeSlots) -> None:
    """A slot that holds a copy goes on like one that read the text, and so does the slot that was copied."""
    text, longer = TEXTS[2], (*TEXTS[2][:2], OTHER, OTHER)
    decoder = make(2, POSITIONS)
    decoder.read(0, longer[:3])
    decoder.copy(0, 1, 2)
    _expect_to_go_on(decoder, 1, text, "a copy of 2 tokens", _read_at_once(make, text))
    rest = decoder.step([Row(0, longer[3:], GREEDY)])
    expect_same(rest, _read_at_once(make, longer), "the slot that was copied")


def expect_a_seed_to_be_one_text(make: MakeSlots) -> None:
    """With one seed, one text follows from one prompt, whatever is drawn beside it."""
    alone = make(1, POSITIONS)
    alone.begin(0, 7)
    expected = _tokens(continued(alone, {0: TEXTS[0]}, DRAWN)[0])
    decoder = make(3, POSITIONS)
    for slot, seed in enumerate((8, 7, 9)):
        decoder.begin(slot, seed)
    together = continued(decoder, dict.fromkeys(range(3), TEXTS[0]), DRAWN)
    beside = {slot: _tokens(text) for slot, text in together.items()}
    expect(beside[1] == expected, f"seed 7 draws {expected} alone, and {beside[1]} beside other texts")
    expect(beside[0] != expected or beside[2] != expected, f"seeds 7, 8 and 9 all draw {expected}")
    decoder.cut(1, 0)
    decoder.begin(1, 7)
    again = _tokens(continued(decoder, {1: TEXTS[0]}, DRAWN)[1])
    expect(again == expected, f"seed 7 draws {expected}, and {again} once the slot was used")


def expect_loads_of_every_token(make: MakeSlots, chosen: Mapping[int, int]) -> None:
    """Loads count each token that was read once, `chosen` experts in each layer, and begin anew when told."""
    decoder = make(2, POSITIONS)
    continued(decoder, dict(enumerate(TEXTS[:2])))
    decoder.read(0, TEXTS[2])
    loads = decoder.expert_loads()
    if not loads:
        raise NotApplicable("it counts no experts")
    expect(loads.keys() == chosen.keys(), f"layers {sorted(chosen)} have routers, and {sorted(loads)} have loads")
    read = decoder.length(0) + decoder.length(1)
    for layer, load in loads.items():
        expected, counted = chosen[layer] * read, int(load.sum())
        expect(counted == expected, f"layer {layer} chose {expected} experts for {read} tokens, and {counted} are told")
    left = [layer for layer, load in decoder.expert_loads().items() if load.any()]
    expect(not left, f"loads that were told are told again, of layers {left}")


def continued(decoder: SlotDecoder, texts: Mapping[int, Sequence[int]], draw: Draw = GREEDY) -> dict[int, list[Chosen]]:
    """`NEW` tokens behind each text, by slot. The n-th text joins after n steps."""
    waiting, fresh = list(texts.items()), dict[int, Sequence[int]]()
    found = {slot: list[Chosen]() for slot in texts}
    while waiting or fresh:
        if waiting:
            slot, text = waiting.pop(0)
            fresh[slot] = text
        rows = [Row(slot, tokens, draw) for slot, tokens in fresh.items()]
        chosen = decoder.step(rows)
        expect(len(chosen) == len(rows), f"a step of {len(rows)} rows chose {len(chosen)} tokens")
        for row, each in zip(rows, chosen, strict=True):
            expect(each.token is not None, f"slot {row.slot} has no token: its logits are NaN or infinite")
            found[row.slot].append(each)
            fresh[row.slot] = _tokens([each])
            if len(found[row.slot]) == NEW:
                del fresh[row.slot]
    return found


def expect_same(found: Sequence[Chosen], expected: Sequence[Chosen], what: str) -> None:
    """Greedy tokens with their log-probabilities. Where two tokens are equally likely, either may follow."""
    for position, (one, other) in enumerate(zip(found, expected, strict=True)):
        seen = f"{what}: token {position} is {one.token} ({one.logprob}), and {other.token} ({other.logprob}) alone"
        expect(_close(one.logprob, other.logprob), seen)
        if one.token != other.token:
            return


def _expect_to_go_on(decoder: SlotDecoder, slot: int, text: Sequence[int], what: str, expected: list[Chosen]) -> None:
    left = decoder.length(slot)
    expect(left in (0, 2), f"{what}, the slot says that it holds {left}")
    expect_same(decoder.step([Row(slot, text[left:], GREEDY)]), expected, what)
    expect(decoder.length(slot) == len(text), f"{len(text)} tokens later, it says that it holds {decoder.length(slot)}")


def _read_at_once(make: MakeSlots, text: Sequence[int]) -> list[Chosen]:
    return make(1, POSITIONS).step([Row(0, text, GREEDY)])


def _tokens(chosen: Sequence[Chosen]) -> list[int]:
    return [each.token for each in chosen if each.token is not None]


def _close(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
