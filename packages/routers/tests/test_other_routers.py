"""The gates beyond one matrix: two layers, a balanced plan, clusters; and the controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from penstock.routers.cluster import Cluster
from penstock.routers.controls import FrozenTopK, Hash, Random, RoundRobin
from penstock.routers.gates import TwoLayer
from penstock.routers.load import expert_load, max_violation
from penstock.routers.sinkhorn import SinkhornTopK, balanced_plan
from penstock.routers.topk import SigmoidTopK, SoftmaxTopK


def hidden(tokens: int, seed: int = 1, width: int = 16) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def violation(routing) -> float:
    return max_violation(expert_load({0: routing}).counts_LE)[0].item()


def test_two_layers_are_a_softmax_router_over_their_inner_states():
    router = TwoLayer(16, 6, k=3)
    inner_TI = torch.nn.functional.gelu(hidden(20) @ router.inner_weight.T)
    assert inner_TI.shape == (20, 8)
    outer = SoftmaxTopK(8, 6, k=3)
    outer.load_state_dict({name: value for name, value in router.state_dict().items() if name != "inner_weight"})
    torch.testing.assert_close(router(hidden(20)).score_TE, outer(inner_TI).score_TE)
    gradients = torch.autograd.grad(router(hidden(20)).weight_TK[:, 0].sum(), list(router.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_plan_has_rows_of_one_and_columns_within_one_percent_of_even():
    logits_TE = hidden(256, width=8) + torch.arange(8)
    plan_TE = balanced_plan(logits_TE, iterations=8)
    torch.testing.assert_close(plan_TE.sum(-1), torch.ones(256))
    torch.testing.assert_close(plan_TE.sum(0), torch.full((8,), 32.0), rtol=0.01, atol=0)
    ratio_TE = (plan_TE.log() - logits_TE).double()  # a plan differs from the logits by one term a row, one a column
    rest_TE = ratio_TE - ratio_TE.mean(0) - ratio_TE.mean(1, keepdim=True) + ratio_TE.mean()
    assert rest_TE.abs().max() < 1e-4


def test_sinkhorn_is_even_in_training_and_softmax_in_evaluation():
    torch.manual_seed(0)
    router, plain = SinkhornTopK(16, 8), SoftmaxTopK(16, 8)
    plain.load_state_dict(router.state_dict())
    hidden_TD = hidden(512) + 1
    assert violation(router.eval()(hidden_TD)) == violation(plain(hidden_TD))
    evaluated, trained = violation(router(hidden_TD)), violation(router.train()(hidden_TD))
    assert trained < 0.35 * evaluated


def test_random_is_even_and_knows_nothing_of_the_token():
    router = Random(16, 8)
    hidden_TD = hidden(4096)
    first_TK = router(hidden_TD).expert_TK
    assert violation(router(hidden_TD)) < 0.15
    again_TK = router(hidden_TD * (1 + 1e-6)).expert_TK
    same = sum(len(set(one) & set(two)) for one, two in zip(first_TK.tolist(), again_TK.tolist(), strict=True))
    assert same / 4096 / 2 == pytest.approx(2 / 8, abs=0.03)


def test_hash_sends_similar_states_to_the_same_experts_and_strangers_elsewhere():
    torch.manual_seed(0)
    router = Hash(16, 8)
    hidden_TD = hidden(1000)
    here = router(hidden_TD).expert_TK
    near, far = router(hidden_TD + 0.001 * hidden(1000, 2)).expert_TK, router(hidden(1000, 3)).expert_TK
    assert (here == near).all(-1).float().mean() > 0.95
    assert (here == far).all(-1).float().mean() < 0.1
    assert not list(router.parameters())


def test_hash_has_as_many_buckets_as_its_planes_make():
    torch.manual_seed(0)
    choices = Hash(16, 64, planes=2)(hidden(500)).expert_TK
    assert len({tuple(row) for row in choices.tolist()}) == 4


@pytest.mark.parametrize(("tokens", "k", "experts"), [(8, 2, 4), (7, 3, 5), (0, 1, 2)])
def test_round_robin_is_even_to_within_one(tokens, k, experts):
    routing = RoundRobin(16, experts, k=k)(hidden(tokens))
    counts_E = expert_load({0: routing}).counts_LE[0]
    assert counts_E.max() - counts_E.min() <= 1
    assert all(len(set(row)) == k for row in routing.expert_TK.tolist())


def test_frozen_is_a_sigmoid_router_without_anything_to_train():
    torch.manual_seed(0)
    frozen = FrozenTopK(16, 8)
    learned = SigmoidTopK(16, 8)
    learned.load_state_dict(frozen.state_dict())
    assert torch.equal(frozen(hidden(20)).weight_TK, learned(hidden(20)).weight_TK)
    assert not list(frozen.parameters())
    assert not frozen(hidden(20)).weight_TK.requires_grad


@pytest.mark.parametrize("kind", [Random, Hash, RoundRobin])
def test_unlearned_weights_are_even_and_sum_to_the_scale(kind):
    routing = kind(16, 8, k=4, scale=2.0)(hidden(10))
    assert (routing.weight_TK == 0.5).all()
    with pytest.raises(ValueError, match="k=9"):
        kind(16, 8, k=9)


# ---------------------------------------------------------------------------------------------- clusters


def step(router: Cluster, hidden_TD: torch.Tensor) -> None:
    router(hidden_TD)
    router.end_step(lambda tensor: tensor)


def blobs(seed: int) -> torch.Tensor:
    """Tokens around four far points."""
    centre_CD = 3 * hidden(4, seed=0)
    return (centre_CD.repeat_interleave(50, 0) + 0.1 * hidden(200, seed)).clone()


def test_a_step_moves_each_centroid_by_the_rate_towards_the_mean_of_its_tokens():
    torch.manual_seed(0)
    router = Cluster(16, 3, k=1, rate=0.25)
    hidden_TD, before = hidden(40).double().numpy(), router.centroid_ED.double().numpy().copy()
    nearest = ((hidden_TD[:, None] - before) ** 2).sum(-1).argmin(-1)
    means = [hidden_TD[nearest == e].mean(0) if (nearest == e).any() else hidden_TD.mean(0) for e in range(3)]
    step(router, hidden(40))
    np.testing.assert_allclose(router.centroid_ED.numpy(), before + 0.25 * (np.array(means) - before), atol=1e-6)


def test_centroids_find_the_clusters_and_leave_none_without_tokens():
    torch.manual_seed(0)
    router = Cluster(16, 4, k=1, rate=0.5)
    for seed in range(60):
        step(router, blobs(seed))
    expert_T = router.eval()(blobs(99)).expert_TK.flatten()
    assert [len(set(block.tolist())) for block in expert_T.split(50)] == [1, 1, 1, 1]
    assert len(set(expert_T.tolist())) == 4


def test_micro_batches_and_ranks_move_centroids_as_the_whole_batch_does():
    torch.manual_seed(0)
    whole = Cluster(16, 4)
    ranks = [Cluster(16, 4), Cluster(16, 4)]
    for router in ranks:
        router.load_state_dict(whole.state_dict())
    step(whole, hidden(40))
    for router, half in zip(ranks, hidden(40).split(20), strict=True):
        for part in half.split(10):
            router(part)
    sums = [torch.cat((router.sum_ED, router.nearest_E.unsqueeze(-1)), -1).double() for router in ranks]
    for router in ranks:
        router.end_step(lambda _: sums[0] + sums[1])
        torch.testing.assert_close(router.centroid_ED, whole.centroid_ED)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_that_is_repeated_and_passes_without_gradient_leave_the_step_as_it_is(reentrant):
    torch.manual_seed(0)
    once, repeated = Cluster(16, 4), Cluster(16, 4)
    repeated.load_state_dict(once.state_dict())
    hidden_TD = hidden(40)
    step(once, hidden_TD)
    with torch.no_grad():
        repeated(hidden(7))
    out = checkpoint(lambda x_TD: repeated(x_TD).weight_TK, hidden_TD.clone().requires_grad_(), use_reentrant=reentrant)
    out.sum().backward()
    repeated.end_step(lambda tensor: tensor)
    torch.testing.assert_close(repeated.centroid_ED, once.centroid_ED)


def test_a_step_without_tokens_moves_nothing():
    router = Cluster(16, 4)
    before = router.centroid_ED.clone()
    step(router.eval(), hidden(8))
    assert torch.equal(router.centroid_ED, before)
