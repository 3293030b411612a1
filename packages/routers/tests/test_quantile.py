from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.hooks.problems import ProblemError
from penstock.routers.controls import Random
from penstock.routers.load import expert_load, max_violation
from penstock.routers.quantile import Quantile, quantile_of
from penstock.routers.topk import SigmoidTopK, SoftmaxTopK


def hidden(tokens: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, 16, generator=torch.Generator().manual_seed(seed)) + 0.5


def made(kind=SigmoidTopK):
    torch.manual_seed(0)
    router = kind(16, 8)
    with torch.no_grad():
        router.weight.normal_()
    return router


def balance(router, hidden_TD) -> torch.Tensor:
    routing = router(hidden_TD)
    statistic, counts_E = Quantile().statistic(router, routing), expert_load({0: routing}).counts_LE[0]
    Quantile().update(router, counts_E, tokens_seen=1, statistic=statistic)
    return counts_E


def test_the_update_is_the_quantile_of_the_margins():
    router = made()
    with torch.no_grad():
        router.e_score_correction_bias.normal_(std=0.1)
    before_E = router.e_score_correction_bias.numpy().copy()
    biased_TE = router(hidden()).score_TE.detach().numpy() + before_E
    threshold_T1 = np.sort(biased_TE, axis=1)[:, -3:-2]
    delta_E = np.quantile(biased_TE - threshold_T1, 1 - 2 / 8, axis=0)
    balance(router, hidden())
    moved_E = router.e_score_correction_bias.numpy() - before_E
    np.testing.assert_allclose(moved_E, -(delta_E - delta_E.mean()), atol=0.01)


@pytest.mark.parametrize("kind", [SigmoidTopK, SoftmaxTopK])
def test_a_few_steps_without_any_rate_even_out_a_skewed_router(kind):
    router = made(kind)
    first = max_violation(balance(router, hidden())).item()
    for _ in range(8):
        counts_E = balance(router, hidden())
    assert first > 0.5
    assert max_violation(counts_E).item() < 0.05


def test_parts_of_a_batch_add_up_to_it_and_padding_is_left_out():
    router = made()
    whole = Quantile().statistic(router, router(hidden()))
    parts = torch.stack([Quantile().statistic(router, router(part)) for part in hidden().split(100)])
    assert torch.equal(whole, parts.sum(0))
    assert whole.sum(-1).tolist() == [512] * 8
    masked = Quantile().statistic(router, router(hidden()), torch.arange(512) < 300)
    assert torch.equal(masked, Quantile().statistic(router, router(hidden()[:300])))


def test_the_quantile_of_a_histogram_is_that_of_the_values_to_a_bin():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 0.1
    router = made()
    edges_of = Quantile().statistic(router, router(hidden())).shape[-1]
    assert edges_of == 1024
    from penstock.routers.quantile import _edges

    histogram_EN = torch.bucketize(values, _edges(values.device)).bincount(minlength=1024).unsqueeze(0)
    for share in (0.01, 0.25, 0.5, 0.9):
        exact = values.double().quantile(share).item()
        assert quantile_of(histogram_EN, share).item() == pytest.approx(exact, abs=5e-5 + 0.03 * abs(exact))


def test_no_tokens_and_no_choice_leave_the_bias_alone():
    router = made()
    statistic = Quantile().statistic(router, router(hidden(0)))
    Quantile().update(router, torch.zeros(8, dtype=torch.int64), tokens_seen=1, statistic=statistic)
    assert not router.e_score_correction_bias.any()
    everyone = SigmoidTopK(16, 4, k=4)
    balance(everyone, hidden())
    assert not everyone.e_score_correction_bias.any()


def test_a_router_without_bias_and_an_update_without_statistic_are_refused():
    router = Random(16, 8)
    with pytest.raises(ProblemError, match="Random has no e_score_correction_bias"):
        Quantile().statistic(router, router(hidden()))
    with pytest.raises(ValueError, match="statistic"):
        Quantile().update(made(), torch.zeros(8), tokens_seen=1)
