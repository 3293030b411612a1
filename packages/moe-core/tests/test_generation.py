"""Generation with a cache equals generation without, and sampling does what its names say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from penstock.hooks.contracts import Inputs
from penstock.hooks.problems import ProblemError
from penstock.moe_core.layers.generation import sample


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0.8, "seed": 3}, {"temperature": 1.0, "top_k": 5}, {"temperature": 1.2, "top_p": 0.7}],
)
def test_cache_changes_nothing(make_model, sampling):
    model = make_model()
    prompt = torch.tensor([[5, 6, 7], [1, 2, 3]])
    cached = model.generate(prompt, tokens=12, **sampling)
    assert torch.equal(cached, model.generate(prompt, tokens=12, use_cache=False, **sampling))
    assert cached.shape == (2, 15)


def test_cached_logits_equal_a_full_pass_for_any_split(make_model):
    model = make_model()
    token_BS = torch.randint(0, 96, (2, 10))
    full = model(token_BS).hidden_BSD
    for split in ([10], [4, 6], [1] * 10, [3, 1, 5, 1]):
        cache = model.new_cache(2, 10)
        parts = [model(part, cache=cache).hidden_BSD for part in token_BS.split(split, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-4, atol=1e-5)


def test_greedy_takes_the_most_likely_token(make_model):
    model = make_model()
    prompt = torch.tensor([[5, 6, 7]])
    expected = model.logits(model(prompt).hidden_BSD)[:, -1].argmax(-1)
    assert torch.equal(model.generate(prompt, tokens=1)[:, -1], expected)


def test_top_k_and_top_p_never_draw_outside_their_set():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]]).repeat(2000, 1)
    generator = torch.Generator().manual_seed(0)
    assert set(sample(logits, 1.0, 2, None, generator).tolist()) == {0, 1}
    # probabilities .64 .23 .09 .03 .01: the smallest set that reaches 0.7 is the first two
    assert set(sample(logits, 1.0, None, 0.7, generator).tolist()) == {0, 1}
    assert set(sample(logits, 1.0, None, 0.01, generator).tolist()) == {0}
    drawn = sample(logits, 1.0, None, None, generator)
    assert (drawn == 0).float().mean() == pytest.approx(0.636, abs=0.05)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_without_a_finite_largest_are_refused(temperature, value):
    logits = torch.tensor([[1.0, 2.0, 0.5], [1.0, value, 0.5] if value != -math.inf else [value] * 3])
    with pytest.raises(ProblemError, match="logits that are NaN or infinite"):
        sample(logits, temperature, None, 0.9, torch.Generator().manual_seed(0))


def test_a_token_that_is_ruled_out_is_never_drawn():
    logits = torch.tensor([[1.0, -math.inf, 0.5]]).repeat(200, 1)
    assert set(sample(logits, 1.0, None, None, torch.Generator().manual_seed(0)).tolist()) == {0, 2}


def drawn_by_hand(logits, share, temperature, top_k, top_p):
    """The definition, a token at a time in Python's floats."""
    most = max(logits)
    ranked = sorted((-math.exp((value - most) / temperature), token) for token, value in enumerate(logits))
    kept = [(-weight, token) for weight, token in ranked[:top_k]]
    nucleus = top_p * sum(weight for weight, _ in kept)
    before = list(itertools.accumulate((weight for weight, _ in kept), initial=0.0))
    kept = [each for each, sum_before in zip(kept, before, strict=False) if sum_before < nucleus]
    bound = share * sum(weight for weight, _ in kept)
    upto = itertools.accumulate(weight for weight, _ in kept)
    return next(token for (_, token), total in zip(kept, upto, strict=True) if total > bound)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, None, 1.0), (0.7, 5, 1.0), (1.3, None, 0.8), (1, 7, 0.6)]
)
def test_a_token_is_where_a_uniform_number_falls_among_falling_probabilities(temperature, top_k, top_p):
    logits = torch.randn(200, 30, generator=torch.Generator().manual_seed(1)) * 2
    shares = torch.rand(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    drawn = sample(logits, temperature, top_k, None if top_p == 1 else top_p, torch.Generator().manual_seed(5))
    expected = [
        drawn_by_hand(row, share, temperature, top_k, top_p)
        for row, share in zip(logits.tolist(), shares.flatten().tolist(), strict=True)
    ]
    assert drawn.tolist() == expected


def test_of_equal_logits_the_smaller_id_comes_first():
    assert set(sample(torch.zeros(500, 9), 1.0, 3, None, torch.Generator().manual_seed(0)).tolist()) == {0, 1, 2}


def test_a_stopped_row_repeats_the_stop_token(make_model):
    model = make_model()
    prompt = torch.tensor([[5, 6, 7]])
    free = model.generate(prompt, tokens=6)
    stop = free[0, 4].item()
    first = free[0, 3:].tolist().index(stop)
    assert model.generate(prompt, tokens=6, stop_token=stop).tolist()[0] == free[0, : 3 + first + 1].tolist()


def test_sampling_leaves_the_global_generator_alone(make_model):
    model = make_model()
    before = torch.get_rng_state()
    model.generate(torch.tensor([[1]]), tokens=3, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_an_empty_prompt_and_a_full_cache_are_clear_errors(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="at least one token"):
        model.generate(torch.empty(1, 0, dtype=torch.int64), tokens=1)
    cache = model.new_cache(1, 2)
    with pytest.raises(ValueError, match="holds 2 positions, but 3 are needed"):
        model(torch.tensor([[1, 2, 3]]), cache=cache)


@pytest.mark.parametrize("sampling", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_settings_that_mean_nothing_are_refused(make_model, sampling):
    with pytest.raises(ValueError, match="must be >= 0"):
        make_model().generate(torch.tensor([[1]]), tokens=1, **{"temperature": 1.0, **sampling})


def test_a_text_ends_where_the_model_has_no_more_positions(make_model):
    model = make_model(max_position_embeddings=8)
    prompt = torch.tensor([[5, 6, 7]])
    assert torch.equal(model.generate(prompt, tokens=99), model.generate(prompt, tokens=5))
    assert model.generate(prompt, tokens=99).shape == (1, 8)
    padded = Inputs(torch.tensor([[0, 0, 0, 5, 6, 7]]), torch.tensor([[False] * 3 + [True] * 3]))
    assert model.generate(padded, tokens=99)[0, 3:].tolist() == model.generate(prompt, tokens=99)[0].tolist()
    with pytest.raises(ValueError, match="the prompt has 8 tokens, but the model reads at most 8"):
        model.generate(torch.ones(1, 8, dtype=torch.int64), tokens=1)
