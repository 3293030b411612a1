from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.hooks.problems import ProblemError
from penstock.routers.balancers import LossFree, rate_steps
from penstock.routers.load import expert_load, max_violation
from penstock.routers.topk import SigmoidTopK


@given(counts=st.lists(st.integers(0, 50), min_size=4, max_size=4), centred=st.booleans())
def test_update_equals_algorithm_1(counts, centred):
    router = SigmoidTopK(3, 4)
    LossFree(0.01, centred).update(router, torch.tensor(counts), tokens_seen=1)
    delta = np.sign(np.mean(counts) - np.array(counts))
    expected = 0.01 * (delta - delta.mean() if centred else delta)
    np.testing.assert_allclose(router.e_score_correction_bias.numpy(), expected, atol=1e-8)


@given(counts=st.lists(st.integers(0, 50), min_size=4, max_size=4), centred=st.booleans())
def test_magnitude_moves_by_the_error_in_units_of_the_mean_load(counts, centred):
    router = SigmoidTopK(3, 4)
    LossFree(0.01, centred, step="magnitude").update(router, torch.tensor(counts), tokens_seen=1)
    expected = 0.01 * (1 - np.array(counts) / np.mean(counts)) if sum(counts) else np.zeros(4)
    np.testing.assert_allclose(router.e_score_correction_bias.numpy(), expected, atol=1e-8)


def test_no_assignments_leave_the_bias_alone():
    router = SigmoidTopK(3, 4)
    router.e_score_correction_bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    before = router.e_score_correction_bias.clone()
    LossFree().update(router, torch.zeros(4, dtype=torch.int64), tokens_seen=1)
    assert torch.equal(router.e_score_correction_bias, before)


def test_error_is_exact_at_counts_that_fp32_cannot_hold():
    router = SigmoidTopK(3, 4)
    base = 2**40
    LossFree(1.0).update(router, torch.tensor([base, base, base + 1, base - 1]), tokens_seen=1)
    assert router.e_score_correction_bias.tolist() == [0, 0, -1, 1]


@pytest.mark.parametrize(("tokens_seen", "rate"), [(0, 0.1), (99, 0.1), (100, 0.01), (5000, 0.01), (10**16, 0.0)])
def test_schedule_holds_the_last_step_reached(tokens_seen, rate):
    balancer = LossFree([[0, 0.1], [100, 0.01], [15e12, 0.0]])
    assert balancer.rate_at(tokens_seen) == rate
    router = SigmoidTopK(3, 2)
    balancer.update(router, torch.tensor([0, 2]), tokens_seen=tokens_seen)
    assert router.e_score_correction_bias.tolist() == pytest.approx([rate, -rate])


@pytest.mark.parametrize("rate", [[], [[5, 0.1]], [[0, 0.1], [0, 0.2]], [[0, 0.1], [9, 0.1], [5, 0.2]], -0.1])
def test_schedule_that_does_not_ascend_from_zero_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        rate_steps(rate)


def test_router_without_bias_is_a_clear_problem():
    class Biasless:
        experts, k, e_score_correction_bias = 2, 1, None

        def __call__(self, hidden_TD):
            raise NotImplementedError

    with pytest.raises(ProblemError, match="Biasless has no e_score_correction_bias") as caught:
        LossFree().update(Biasless(), torch.tensor([1, 0]), tokens_seen=1)
    assert caught.value.problems[0].code == "router-without-bias"


def test_counts_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*4 experts"):
        LossFree().update(SigmoidTopK(3, 4), torch.tensor([1, 2, 3]), tokens_seen=1)


def test_balancing_evens_out_a_skewed_router():
    torch.manual_seed(0)
    router, balancer = SigmoidTopK(16, 8, k=2), LossFree(0.01)
    with torch.no_grad():
        router.weight.normal_()
    hidden_TD = torch.randn(512, 16) + 0.5
    violations = []
    for step in range(200):
        counts_E = expert_load({0: router(hidden_TD)}).counts_LE[0]
        violations.append(max_violation(counts_E).item())
        balancer.update(router, counts_E, tokens_seen=512 * (step + 1))
    assert violations[0] > 0.5
    assert max(violations[-20:]) < 0.15
