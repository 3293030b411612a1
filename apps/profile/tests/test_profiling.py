"""A recorded trace counts what was computed, and keeps domains apart."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from penstock.hooks.contracts import ModelOutput, Routing
from penstock.hooks.problems import ProblemError
from penstock.profile.atlas import tables_of
from penstock.profile.profiling import profile_figures, record_trace
from penstock.profile.subject import Stream, Subject
from penstock.traces.trace import RoutingTrace


class TwoExperts(torch.nn.Module):
    """A model of one layer in which each token names the experts 0 and 1, or 0 and 2 from token 100 on; `capped` keeps
    expert 0 of even tokens alone."""

    def __init__(self, capped: bool) -> None:
        super().__init__()
        self.capped = capped
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.routers = {2: SimpleNamespace(k=2, experts=3)}

    def forward(self, token_BS: torch.Tensor) -> ModelOutput:
        token_T = token_BS.flatten()
        expert_TK = torch.stack([torch.zeros_like(token_T), 1 + (token_T >= 100).long()], dim=1)
        kept_TK = torch.stack((token_T % 2 == 0, torch.zeros(len(token_T), dtype=torch.bool)), dim=1)
        score_TE = torch.zeros(len(token_T), 3)
        kept = kept_TK if self.capped else None
        return ModelOutput(token_BS, {2: Routing(expert_TK, score_TE[:, :2], score_TE, score_TE, kept)})


def stream(first: int, windows: int, domain: str | None = None) -> Stream:
    token_N = np.arange(first, first + 5 * windows)
    return Stream(token_N, np.ones_like(token_N), domain)


def profiled(model: Any, streams: Sequence[Stream]) -> RoutingTrace:
    header = {"model": "two", "k": 2, "split": "corpus", "hidden_size": 4}
    return record_trace(Subject("two", model, streams, sequence_length=5, batch_size=2, header=header))


def test_a_trace_counts_the_slots_that_were_kept():
    even_tokens = sum(token % 2 == 0 for token in range(30))
    assert profiled(TwoExperts(capped=False), [stream(0, 6)]).counts_LE.tolist() == [[30, 30, 0]]
    assert profiled(TwoExperts(capped=True), [stream(0, 6)]).counts_LE.tolist() == [[even_tokens, 0, 0]]


def test_a_trace_names_the_experts_of_each_token_where_all_have_k():
    expert_NLK = profiled(TwoExperts(capped=False), [stream(0, 6)]).expert_NLK
    assert expert_NLK is not None
    assert expert_NLK.tolist() == [[[0, 1]]] * 30
    assert profiled(TwoExperts(capped=True), [stream(0, 6)]).expert_NLK is None


def test_a_step_has_tokens_of_one_domain_and_the_header_says_which():
    trace = profiled(TwoExperts(capped=False), [stream(0, 3, "low"), stream(100, 2, "high")])
    assert trace.header["domains"] == ["low", "low", "high"]
    assert trace.counts_SLE.tolist() == [[[10, 10, 0]], [[5, 5, 0]], [[10, 0, 10]]]
    (layer,) = profile_figures(tables_of(trace)).layers
    assert layer.specialisation is not None
    assert layer.specialisation.verdict == "uneven load, specialised"
    assert layer.specialisation.domains["low"].share == [1, 1, 0]
    assert layer.specialisation.domains["high"].prefers == [0, 2]


def test_without_domains_the_header_names_none():
    assert "domains" not in profiled(TwoExperts(capped=False), [stream(0, 3), stream(100, 2)]).header


def test_preferences_need_the_same_number_of_experts_for_every_token():
    with pytest.raises(ProblemError, match="preferences need routers that give every token the same number"):
        profiled(TwoExperts(capped=True), [stream(0, 3, "low"), stream(100, 2, "high")])


def test_a_layer_that_does_not_say_what_it_chose_is_named():
    model = TwoExperts(capped=False)
    model.routers[7] = SimpleNamespace(k=2, experts=3)
    with pytest.raises(ProblemError, match="two, layer 7: the router does not return which experts it chose"):
        profiled(model, [stream(0, 2)])


def test_profile_figures_of_known_counts():
    counts = np.array([[[4, 0], [2, 2]], [[0, 4], [2, 2]]], dtype=np.int64)
    trace = RoutingTrace(counts, {"model": "known", "split": "heldout", "tokens": 4, "k": 2, "layers": [1, 2]})
    figures = profile_figures(tables_of(trace))
    assert [layer.max_violation for layer in figures.layers] == [0, 0]
    assert figures.max_violation_global == 0
    assert figures.max_violation_batch == pytest.approx(0.5)  # layer 1 is all or nothing in each batch
