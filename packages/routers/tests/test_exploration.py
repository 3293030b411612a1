"""Temperature and noise of the top-k routers."""

from __future__ import annotations

import pytest
import torch

from penstock.routers.topk import SigmoidTopK, SoftmaxTopK, SqrtSoftplusTopK

ALL = pytest.mark.parametrize("kind", [SigmoidTopK, SoftmaxTopK, SqrtSoftplusTopK])


def made(kind, **settings):
    torch.manual_seed(0)
    router = kind(8, 6, **settings)
    with torch.no_grad():
        router.weight.normal_()
    return router


def hidden(tokens: int = 64) -> torch.Tensor:
    return torch.randn(tokens, 8, generator=torch.Generator().manual_seed(1))


@ALL
def test_temperature_divides_the_logits_of_the_scores_and_not_those_that_are_told(kind):
    plain, cool = made(kind, k=1), made(kind, k=1, temperature=0.25)
    scores = cool(hidden()).score_TE
    with torch.no_grad():
        plain.weight.mul_(4)
    torch.testing.assert_close(scores, plain(hidden()).score_TE)
    assert torch.equal(cool(hidden()).logits_TE * 4, plain(hidden()).logits_TE)


@ALL
def test_noise_changes_the_choice_in_training_and_never_a_weight(kind):
    router = made(kind, noise=3.0, normalize=False)
    assert torch.equal(router.eval()(hidden()).expert_TK, made(kind)(hidden()).expert_TK)
    calm, noisy = router(hidden()), router.train()(hidden())
    moved_T = (calm.expert_TK.sort(-1).values != noisy.expert_TK.sort(-1).values).any(-1)
    assert moved_T.float().mean() > 0.3
    assert torch.equal(noisy.weight_TK, calm.score_TE.gather(-1, noisy.expert_TK))


@ALL
def test_noise_is_the_same_when_a_pass_is_repeated_and_another_under_another_seed(kind):
    router = made(kind, noise=3.0).train()
    first = router(hidden()).expert_TK
    router(hidden(5))
    assert torch.equal(router(hidden()).expert_TK, first)
    assert not torch.equal(made(kind, noise=3.0, noise_seed=1).train()(hidden()).expert_TK, first)


def test_unit_noise_on_softmax_scores_draws_the_expert_from_the_softmax():
    router = made(SoftmaxTopK, k=1, noise=1.0).train()
    with torch.no_grad():
        router.weight.mul_(0.1)
    routing = router(hidden(20_000))
    drawn_E = routing.expert_TK.flatten().bincount(minlength=6) / 20_000
    torch.testing.assert_close(drawn_E, routing.score_TE.mean(0), rtol=0, atol=0.015)


def test_sqrtsoftplus_has_its_definition_and_no_ceiling():
    logits = torch.tensor([[-200.0, -1.0, 0.0, 1.0, 50.0]], requires_grad=True)
    score = SqrtSoftplusTopK(8, 5).scores(logits)
    torch.testing.assert_close(score[0, 1:], (1 + logits[0, 1:].double().exp()).log().sqrt().float())
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"capacity": 0.0}])
def test_numbers_that_cannot_work_are_named(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value}: choose"):
        SigmoidTopK(8, 6, **settings)
