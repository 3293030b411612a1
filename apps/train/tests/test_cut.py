"""What is said of a run that goes on with another cut: whether its bits stay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from penstock.hooks import Registry
from penstock.train.balancing import Balancing
from penstock.train.cut import Cut

LOCAL, DDP, FSDP2, OTHER = "penstock-train:local", "penstock-train:ddp", "penstock-train:fsdp2", "acme:zero"


def cut(ranks: int, micro_batches: int, engine: str = DDP) -> Cut:
    return Cut(ranks, micro_batches, engine, exact=engine != OTHER)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (cut(1, 2, LOCAL), cut(2, 1)),  # a + b
        (cut(2, 1), cut(1, 2, LOCAL)),
        (cut(2, 1), cut(2, 1, FSDP2)),
        (cut(2, 4), cut(2, 4, FSDP2)),  # each rank's sum of four, then two sums
        (cut(1, 8, LOCAL), cut(1, 8)),
    ],
)
def test_the_same_sums_keep_every_bit(before, now):
    assert "every bit stays" in (now.change_from(before) or "")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (cut(1, 4, LOCAL), cut(2, 2)),  # ((a + b) + c) + d, and (a + b) + (c + d)
        (cut(1, 1, LOCAL), cut(1, 2, LOCAL)),
        (cut(1, 4, LOCAL), cut(4, 1)),
        (cut(4, 1), cut(4, 1, FSDP2)),  # each asks for another sum of four
        (cut(2, 1), cut(2, 1, OTHER)),  # which promises nothing
    ],
)
def test_other_sums_differ_by_rounding(before, now):
    assert "differs from an uninterrupted one by rounding" in (now.change_from(before) or "")


def test_the_sentence_is_plain():
    assert cut(2, 1).change_from(cut(1, 2, LOCAL)) == (
        "continuing with 2 ranks of 1 micro-batch, engine ddp (before: 1 rank of 2 micro-batches, engine local): "
        "gradients are added in the same order, so every bit stays that of an uninterrupted run; "
        "random numbers, if the model draws any, are each rank's own"
    )


@pytest.mark.parametrize(
    ("router", "loss", "said"),
    [
        (
            "softmax-topk",
            {"use": "global-loss", "counts": "buffer"},
            "balance loss 'one' counts the micro-batches so far",
        ),
        ("cluster", {"use": "z-loss"}, "routers learn from sums over tokens"),
        ("softmax-topk", {"use": "global-loss"}, "every bit stays"),
        ("softmax-topk", {"use": "switch-loss"}, "every bit stays"),
    ],
)
def test_what_else_depends_on_the_cut_is_said_where_it_changes(router: str, loss: dict[str, Any], said: str):
    registry = Registry.discover()
    model: Any = SimpleNamespace(routers={0: registry.build("router", router, hidden_size=8, experts=4)})
    unlike = Balancing(model, {"one": registry.build("balance-loss", loss)}, []).unlike
    assert said in (cut(2, 1).change_from(cut(1, 2, LOCAL), unlike=unlike) or "")
    assert "every bit stays" in (cut(2, 1).change_from(cut(2, 1, FSDP2), unlike=unlike) or "")


def test_nothing_is_said_where_nothing_changed():
    assert cut(2, 3).change_from(cut(2, 3)) is None


def test_a_checkpoint_keeps_its_cut():
    assert Cut.saved({"cut": cut(2, 3).state()}) == cut(2, 3)
    assert Cut.saved({}) is None
