"""Baselines read the tokens that the model saw, and the text that it is judged on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np

from penstock.data_prep.order import TokenOrder
from penstock.evaluate.evaluation import _documents, tokens_seen
from penstock.train.restore import Restored


class Split:
    """Tokens 0, 1, 2, ..."""

    tokens = 1001

    def __len__(self) -> int:
        return self.tokens

    def slice(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop)


def restored(step: int) -> Restored:
    """As much of a restored run as `tokens_seen` reads."""
    parts = SimpleNamespace(
        dataset=SimpleNamespace(split=lambda name: Split()),
        config=SimpleNamespace(train=SimpleNamespace(batch_size=5), data=SimpleNamespace(sequence_length=10), seed=3),
        step=step,
    )
    return cast(Restored, parts)


def test_tokens_seen_are_the_windows_of_the_steps():
    order = TokenOrder(Split(), sequence_length=10, batch_size=5, seed=3)
    expected = {token for step in range(4) for token in order.batch(step).flatten().tolist()}
    seen = tokens_seen(restored(4))
    assert set(seen.tolist()) == expected
    assert len(seen) == 4 * 5 * 11


def test_after_an_epoch_all_tokens_were_seen():
    assert tokens_seen(restored(20)).tolist() == list(range(1001))


def test_a_step_that_is_longer_than_what_is_read_is_read_in_part(monkeypatch):
    monkeypatch.setattr("penstock.evaluate.evaluation.BASELINE_TOKENS", 20)
    order = TokenOrder(Split(), sequence_length=10, batch_size=5, seed=3)
    assert tokens_seen(restored(4)).tolist() == order.batch(0).flatten().tolist()[:20]


def test_documents_are_cut_at_the_end_of_text():
    assert _documents(np.array([5, 6, 0, 7, 0, 0, 8]), 0) == [[5, 6], [7], [], [8]]
