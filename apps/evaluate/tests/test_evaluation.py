"""Baselines read the tokens that the model saw, and the text that it is judged on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from penstock.data_prep.order import TokenOrder
from penstock.evaluate.evaluation import _documents, tokens_seen
from penstock.evaluate.profiling import profile_figures, record_trace
from penstock.hooks.contracts import ModelOutput, Routing
from penstock.hooks.trace import RoutingTrace
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
        checkpoint=SimpleNamespace(step=step),
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


def test_documents_are_cut_at_the_end_of_text():
    assert _documents(np.array([5, 6, 0, 7, 0, 0, 8]), 0) == [[5, 6], [7], [], [8]]


class TwoExperts(torch.nn.Module):
    """A model of one layer in which each token names experts 0 and 1; `capped` keeps expert 0 of even tokens alone."""

    def __init__(self, capped: bool) -> None:
        super().__init__()
        self.capped = capped
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.routers = {2: SimpleNamespace(k=2, experts=3)}

    def export_config(self) -> dict[str, int]:
        return {"hidden_size": 4}

    def forward(self, token_BS: torch.Tensor) -> ModelOutput:
        token_T = token_BS.flatten()
        expert_TK = torch.tensor([0, 1]).expand(len(token_T), 2)
        kept_TK = torch.stack((token_T % 2 == 0, torch.zeros(len(token_T), dtype=torch.bool)), dim=1)
        score_TE = torch.zeros(len(token_T), 3)
        kept = kept_TK if self.capped else None
        return ModelOutput(token_BS, {2: Routing(expert_TK, score_TE[:, :2], score_TE, score_TE, kept)})


def profiled(model: TwoExperts) -> RoutingTrace:
    parts = SimpleNamespace(
        model=model,
        composition=SimpleNamespace(model=model, module=model),
        dataset=SimpleNamespace(
            split=lambda name: Split(), hash="data", manifest=SimpleNamespace(tokenizer_sha256="tokenizer")
        ),
        config=SimpleNamespace(
            name="two",
            model=SimpleNamespace(settings=None),
            train=SimpleNamespace(batch_size=2),
            data=SimpleNamespace(sequence_length=5),
        ),
        checkpoint=SimpleNamespace(path=Path("step-1")),
    )
    return record_trace(cast(Restored, parts), max_tokens=30)


def test_a_trace_counts_the_slots_that_were_kept():
    even_tokens = sum(token % 2 == 0 for token in Split().slice(0, 30).tolist())
    assert profiled(TwoExperts(capped=False)).counts_LE.tolist() == [[30, 30, 0]]
    assert profiled(TwoExperts(capped=True)).counts_LE.tolist() == [[even_tokens, 0, 0]]


def test_a_trace_names_the_experts_of_each_token_where_all_have_k():
    expert_NLK = profiled(TwoExperts(capped=False)).expert_NLK
    assert expert_NLK is not None
    assert expert_NLK.tolist() == [[[0, 1]]] * 30
    assert profiled(TwoExperts(capped=True)).expert_NLK is None


def test_profile_figures_of_known_counts():
    counts = np.array([[[4, 0], [2, 2]], [[0, 4], [2, 2]]], dtype=np.int64)
    trace = RoutingTrace(counts, {"split": "heldout", "tokens": 4, "k": 2, "layers": [1, 2]})
    figures = profile_figures(trace)
    assert [layer["max_violation"] for layer in figures["layers"]] == [0, 0]
    assert figures["max_violation_global"] == 0
    assert figures["max_violation_batch"] == pytest.approx(0.5)  # layer 1 is all or nothing in each batch
