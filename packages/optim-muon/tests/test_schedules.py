from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.optim_muon.schedules import Constant, Cosine, WarmupStableDecay

SHARES = st.floats(0, 0.5)
STEPS = st.integers(1, 100)
SCHEDULES = st.one_of(
    st.builds(Constant, SHARES), st.builds(Cosine, SHARES, SHARES), st.builds(WarmupStableDecay, SHARES, SHARES, SHARES)
)


def in_tokens(steps: int, per_step: int, warmup: int, decay: float = 0.2) -> WarmupStableDecay:
    return WarmupStableDecay(decay=decay, warmup_tokens=warmup, tokens=steps * per_step)


@given(schedule=SCHEDULES, progress=st.floats(-1, 2))
def test_factor_is_a_share_and_progress_outside_the_run_is_its_end(schedule, progress):
    assert 0 <= schedule(progress) <= 1
    assert schedule(progress) == schedule(min(max(progress, 0), 1))


@given(schedule=SCHEDULES, progress=st.floats(0, 1))
def test_warmup_is_linear_and_everything_after_does_not_rise(schedule, progress):
    if progress < schedule.warmup:
        assert schedule(progress) == pytest.approx(progress / schedule.warmup)
    else:
        later = [schedule(progress + (1 - progress) * i / 10) for i in range(11)]
        assert all(a >= b - 1e-12 for a, b in pairwise(later))


@given(schedule=SCHEDULES)
def test_schedule_ends_at_its_final_factor(schedule):
    if getattr(schedule, "decay", 1.0) > 0:
        assert schedule(1.0) == pytest.approx(getattr(schedule, "final", 1.0))


def test_cosine_equals_torch():
    group = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(group, T_max=50, eta_min=0.1)
    schedule = Cosine(warmup=0.0, final=0.1)
    for step in range(50):
        assert schedule(step / 50) == pytest.approx(reference.get_last_lr()[0], abs=1e-9)
        group.step()
        reference.step()


def test_wsd_is_flat_then_a_line():
    schedule = WarmupStableDecay(warmup=0.1, decay=0.2, final=0.5)
    assert [schedule(p) for p in (0.0, 0.05, 0.1, 0.5, 0.79)] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert schedule(0.9) == pytest.approx(0.75)


@given(short=STEPS, more=STEPS, per_step=st.integers(1, 10_000), warmup=st.floats(0, 0.8))
def test_runs_of_all_lengths_with_one_warmup_in_tokens_have_one_trunk(short, more, per_step, warmup):
    tokens = int(warmup * short * per_step)
    first, second = (in_tokens(steps, per_step, tokens) for steps in (short, short + more))
    for step in range(short):
        at, later = (step + 0.5) / short, (step + 0.5) / (short + more)
        if first.in_trunk(at):
            assert second.in_trunk(later)
            assert first(at) == second(later) == min((step + 0.5) * per_step / tokens if tokens else 1, 1)
        else:
            assert first(at) < 1


def test_tokens_are_shares_of_the_run():
    shares, tokens = WarmupStableDecay(0.1, 0.25), WarmupStableDecay(warmup_tokens=100, decay_tokens=250, tokens=1000)
    for step in range(1000):
        assert tokens((step + 0.5) / 1000) == pytest.approx(shares((step + 0.5) / 1000))


def test_a_warmup_that_is_a_share_gives_no_trunk():
    assert not WarmupStableDecay(0.02).in_trunk(0.5)
    assert WarmupStableDecay(0).in_trunk(0.5)
    assert not WarmupStableDecay(0).in_trunk(0.9)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"warmup_tokens": 10}, "need the tokens of the run"),
        ({"warmup_tokens": 90, "tokens": 100}, "warmup_tokens=90 and decay=0.2 overlap.*has 100 tokens"),
        ({"warmup": 0.5, "decay_tokens": 60, "tokens": 100}, "warmup=0.5 and decay_tokens=60 overlap"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(settings, found):
    with pytest.raises(ValueError, match=found):
        WarmupStableDecay(**settings)


def test_whole_run_of_warmup_ends_at_one():
    assert Constant(1.0)(1.0) == Cosine(1.0)(1.0) == WarmupStableDecay(1.0, 0.0)(1.0) == 1.0
    assert Cosine(1.0)(0.5) == 0.5


@pytest.mark.parametrize("make", [lambda: Constant(-0.1), lambda: Cosine(final=1.5), lambda: Cosine(warmup=2.0)])
def test_a_number_that_is_no_share_is_refused(make):
    with pytest.raises(ValueError, match="is not a fraction"):
        make()


def test_warmup_and_decay_that_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        WarmupStableDecay(warmup=0.6, decay=0.6)
