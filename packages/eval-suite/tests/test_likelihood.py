"""Windows and likelihoods against one prediction at a time with its context written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.eval_suite.likelihood import token_nll, window_convention, windows

shapes = st.integers(1, 12).flatmap(
    lambda length: st.tuples(st.just(length), st.one_of(st.none(), st.integers(1, length)), st.integers(1, 60))
)


def context_start(position: int, positions: int, length: int, stride: int | None) -> int:
    """The first token that the prediction after `position` may see: a restatement of the convention."""
    stride = length if stride is None else stride
    if stride == length:
        return position // length * length
    if position < length:
        return 0
    end = length
    while end <= position:
        end = min(end + stride, positions)
    return end - length


@torch.no_grad()
def dumb_nll(model, tokens, length, stride) -> list[float]:
    model.eval()
    result = []
    for position in range(len(tokens) - 1):
        start = context_start(position, len(tokens) - 1, length, stride)
        context_1S = torch.tensor(tokens[start : position + 1])[None]
        logits_V = model.logits(model(context_1S).hidden_BSD)[0, -1]
        result.append(-logits_V.log_softmax(0)[tokens[position + 1]].item())
    return result


@given(shapes)
def test_each_prediction_is_scored_once_in_order_and_no_window_is_too_long(shape):
    length, stride, positions = shape
    plan = windows(positions, length, stride)
    assert [at for window in plan for at in range(window.scored, window.end)] == list(range(positions))
    assert all(0 <= window.start <= window.scored and window.end - window.start <= length for window in plan)


@given(shapes)
def test_sliding_windows_leave_every_later_prediction_enough_context(shape):
    length, stride, positions = shape
    if stride is None or stride == length:
        return
    for window in windows(positions, length, stride)[1:]:
        assert window.end - window.start == length
        assert window.scored - window.start >= length - stride


@settings(deadline=None, max_examples=30)
@given(shapes, st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_equals_one_token_at_a_time(make_gru, shape, batch_size, seed):
    length, stride, positions = shape
    tokens = np.random.default_rng(seed).integers(0, 11, positions + 1)
    model = make_gru()
    nll_N = token_nll(model, tokens, sequence_length=length, batch_size=batch_size, stride=stride)
    assert nll_N == pytest.approx(dumb_nll(model, tokens, length, stride), abs=1e-5)


@pytest.mark.parametrize("stride", [None, 3])
def test_batch_size_changes_nothing_but_rounding(make_gru, stride):
    tokens = np.random.default_rng(0).integers(0, 11, 203)
    one, many = (token_nll(make_gru(), tokens, sequence_length=16, batch_size=size, stride=stride) for size in (1, 64))
    assert one.shape == (202,)
    assert many == pytest.approx(one, abs=1e-5)


def test_a_full_stride_is_the_disjoint_convention(make_gru):
    tokens = np.random.default_rng(0).integers(0, 11, 50)
    disjoint = token_nll(make_gru(), tokens, sequence_length=16)
    assert (token_nll(make_gru(), tokens, sequence_length=16, stride=16) == disjoint).all()


def test_more_context_is_seen_with_a_smaller_stride(make_gru):
    model = make_gru(limit=16)
    tokens = np.random.default_rng(0).integers(0, 11, 50)
    disjoint = token_nll(model, tokens, sequence_length=16)
    sliding = token_nll(model, tokens, sequence_length=16, stride=4)
    assert disjoint[:16] == pytest.approx(sliding[:16], abs=1e-6)
    assert not np.allclose(disjoint[16:], sliding[16:])


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored_and_dropout_is_off(make_gru, training):
    model = make_gru().train(training)
    tokens = np.arange(11)
    assert (token_nll(model, tokens, sequence_length=4) == token_nll(model, tokens, sequence_length=4)).all()
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_ends_at_the_number_of_predictions(make_gru):
    seen = []
    token_nll(
        make_gru(), np.arange(11), sequence_length=3, batch_size=2, progress=lambda *numbers: seen.append(numbers)
    )
    assert seen == [(6, 10), (10, 10)]


def test_shard_integers_are_accepted(make_gru):
    tokens = np.arange(11)
    expected = token_nll(make_gru(), tokens, sequence_length=4)
    assert (token_nll(make_gru(), tokens.astype(np.uint16), sequence_length=4) == expected).all()


@pytest.mark.parametrize("tokens", [np.array([3]), np.zeros((2, 2), dtype=int), np.array([0, 11]), np.array([-1, 0])])
def test_streams_that_cannot_be_scored_are_refused(make_gru, tokens):
    with pytest.raises(ValueError, match="stream"):
        token_nll(make_gru(), tokens, sequence_length=4)


@pytest.mark.parametrize("stride", [0, 5])
def test_strides_that_would_skip_tokens_are_refused(stride):
    with pytest.raises(ValueError, match="stride"):
        windows(10, 4, stride)


def test_the_convention_is_spelled_out():
    assert [window_convention(256), window_convention(256, 256), window_convention(256, 64)] == [
        "disjoint-256",
        "disjoint-256",
        "sliding-256-stride-64",
    ]
