from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.optim_muon.schedules import Constant, Cosine, WarmupStableDecay

SHARES = st.floats(0, 0.5)
SCHEDULES = st.one_of(
    st.builds(Constant, SHARES), st.builds(Cosine, SHARES, SHARES), st.builds(WarmupStableDecay, SHARES, SHARES, SHARES)
)


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
