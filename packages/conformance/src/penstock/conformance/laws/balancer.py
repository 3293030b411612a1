# pyright: basic
"""Laws of balancers: a router, the load of a step and the tokens seen to a router that is changed in place.

They are held against a small router with a selection bias, which chooses as the routers of DeepSeek-V3 do. A balancer
with a `statistic` gets the sum over the step that has the load.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws.routings import EXPERTS, HIDDEN_SIZE, generators_left_alone, seeded, spread
from penstock.hooks.contracts import Routing
from penstock.hooks.problems import ProblemError

BALANCER = "balancer"


class BiasedRouter(nn.Module):
    """Sigmoid scores, top k of the biased ones. The bias stays fp32 when the module is cast."""

    e_score_correction_bias: Tensor

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.experts, self.k = EXPERTS, k
        self.weight = nn.Parameter(0.02 * torch.randn(EXPERTS, HIDDEN_SIZE))
        self.register_buffer("e_score_correction_bias", torch.zeros(EXPERTS))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        bias_E = self.e_score_correction_bias
        super()._apply(fn, recurse)
        self.e_score_correction_bias = bias_E
        return self

    def forward(self, hidden_TD: Tensor) -> Routing:
        logits_TE = hidden_TD.float() @ self.weight.float().T
        score_TE = logits_TE.sigmoid()
        expert_TK = (score_TE + self.e_score_correction_bias).topk(self.k, dim=-1).indices
        weight_TK = score_TE.gather(-1, expert_TK)
        return Routing(expert_TK, weight_TK / weight_TK.sum(dim=-1, keepdim=True), logits_TE, score_TE)


@law(BALANCER)
def an_update_keeps_the_form_of_the_state(subject: Subject) -> None:
    """An update keeps the names, shapes and dtypes of the router's state, and the bias is fp32.

    Update in place with `bias_E.add_(...)`; new buffers or dtypes make checkpoints that do not load.
    """
    router = _router()
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in router.state_dict().items()}
    _update(subject.build(), router, _skewed())
    after = {name: (tensor.shape, tensor.dtype) for name, tensor in router.state_dict().items()}
    expect(before == after, f"the state was {before} and is {after}")


FORM = (an_update_keeps_the_form_of_the_state,)


@law(BALANCER, needs=FORM)
def whatever_the_load_the_router_stays_finite(subject: Subject) -> None:
    """A load on a single expert, of any size, leaves the router finite.

    Do not divide by a count that may be 0.
    """
    for load in (1, 1000, 2**40):
        router = _router()
        _update(subject.build(), router, load * nn.functional.one_hot(torch.tensor(3), EXPERTS))
        finite = all(bool(tensor.isfinite().all()) for tensor in router.state_dict().values())
        expect(finite, f"{load} choices of one expert leave values that are not finite")


@law(BALANCER, needs=FORM)
def the_buffer_stays_the_same_tensor(subject: Subject) -> None:
    """The bias is updated in place.

    A compiled graph or a communication group that holds the buffer would keep using the old one.
    """
    router = _router()
    bias_E = router.e_score_correction_bias
    _update(subject.build(), router, _skewed())
    expect(router.e_score_correction_bias is bias_E, "the buffer is another tensor after the update")


@law(BALANCER, needs=FORM)
def parameters_are_left_to_the_optimizer(subject: Subject) -> None:
    """An update changes no parameter and no gradient.

    The optimizer's moments belong to the old parameters: change only buffers.
    """
    router = _router()
    weight_ED, gradient_ED = router.weight.detach().clone(), torch.ones_like(router.weight)
    router.weight.grad = gradient_ED.clone()
    _update(subject.build(), router, _skewed())
    expect(torch.equal(router.weight, weight_ED), "the weight has changed")
    kept = router.weight.grad is not None and torch.equal(router.weight.grad, gradient_ED)
    expect(kept, "the gradient of the weight has changed")


@law(BALANCER, needs=FORM)
def an_update_is_outside_the_gradient(subject: Subject) -> None:
    """After an update the bias requires no gradient and has no grad_fn.

    Compute only from the counts, or under `torch.no_grad()`: a graph that grows with every step fills the memory.
    """
    router = _router()
    _update(subject.build(), router, _skewed())
    bias_E = router.e_score_correction_bias
    expect(not bias_E.requires_grad and bias_E.grad_fn is None, "the bias has a gradient function")


@law(BALANCER, needs=FORM)
def the_counts_are_left_alone(subject: Subject) -> None:
    """An update does not change the counts.

    The metrics and the trace of the step read them next: do not use in-place operations on them.
    """
    counts_E = _skewed()
    _update(subject.build(), _router(), counts_E)
    expect(torch.equal(counts_E, _skewed()), "the counts have changed")


@law(BALANCER, needs=FORM)
def an_even_load_changes_nothing(subject: Subject) -> None:
    """A router whose experts have equal loads is unchanged.

    Move the bias by the difference from the mean load, which is 0 here.
    """
    _expect_unchanged(subject, torch.full((EXPERTS,), 7), "an even load")


@law(BALANCER, needs=FORM)
def a_step_without_choices_changes_nothing(subject: Subject) -> None:
    """If nothing was routed, the router is unchanged.

    Divide by at least 1: 0 / 0 is NaN.
    """
    _expect_unchanged(subject, torch.zeros(EXPERTS, dtype=torch.int64), "a step without choices")


@law(BALANCER, needs=FORM)
def crowded_experts_lose_to_idle_ones(subject: Subject) -> None:
    """An update lowers the bias of the fullest expert relative to the emptiest.

    Raise the bias if the load is below the mean: with the wrong sign, one expert ends up with every token.
    """
    router = _router()
    _update(subject.build(), router, _skewed())
    bias_E = router.e_score_correction_bias.detach()
    gain = float(bias_E[_skewed().argmin()] - bias_E[_skewed().argmax()])
    expect(gain > 0, f"the emptiest expert gains {gain} relative to the fullest")


@law(BALANCER, needs=(crowded_experts_lose_to_idle_ones,))
def many_updates_even_out_the_load(subject: Subject) -> None:
    """After 300 updates with the router's own load, the fullest expert is at most half as far above the mean.

    Look for a rule that moves in the right direction but overshoots, or stops too early.
    """
    router, balancer, hidden_TD = _router(k=2), subject.build(), spread(256) + 0.5
    excess: list[float] = []
    for step in range(300):
        routing = router(hidden_TD)
        counts_E = routing.expert_TK.flatten().bincount(minlength=EXPERTS)
        excess.append(float(counts_E.max() / counts_E.double().mean()) - 1)
        _end_step(balancer, router, counts_E, [(1, routing)], step)
    settled = sum(excess[-20:]) / 20
    seen = f"the fullest expert is {excess[0]:.2f} of the mean above it, and {settled:.2f} in the end"
    expect(settled <= excess[0] / 2, seen)


@law(BALANCER, needs=FORM)
def the_same_load_makes_the_same_update(subject: Subject) -> None:
    """Two objects with the same settings make the same change to equal routers, bit for bit.

    Every rank has its own balancer, and they must stay in sync: do not draw random numbers or iterate over a set.
    """
    first, second = _router(), _router()
    for router in (first, second):
        _update(subject.build(), router, _skewed())
    _expect_equal(first, second, "built twice")


@law(BALANCER, needs=FORM)
def the_global_generators_are_left_alone(subject: Subject) -> None:
    """An update does not draw from global generators.

    A draw shifts everything after it: dropout, noise, the data order.
    """
    balancer, router = subject.build(), _router()
    with generators_left_alone("the update"):
        _update(balancer, router, _skewed())


@law(BALANCER, needs=(the_same_load_makes_the_same_update,))
def a_resumed_run_goes_on_as_before(subject: Subject) -> None:
    """A new balancer and a router loaded from its `state_dict()` continue bit for bit like the old ones.

    A checkpoint holds the router, not the balancer: keep persistent state in buffers of the router, and let rates
    depend on `tokens_seen`, not on a count of calls.
    """
    balancer, router = subject.build(), _router()
    for step in range(3):
        _update(balancer, router, _skewed().roll(step), step)
    resumed = _router()
    resumed.load_state_dict(router.state_dict())
    _update(balancer, router, _skewed(), 3)
    _update(subject.build(), resumed, _skewed(), 3)
    _expect_equal(router, resumed, "resumed")


@law(BALANCER, needs=(the_same_load_makes_the_same_update,))
def layers_do_not_disturb_one_another(subject: Subject) -> None:
    """One object balances the routers of all layers, each independently.

    Keep nothing between updates: the next one is for another layer.
    """
    alone, first, second = _router(), _router(), _router()
    _update(subject.build(), alone, _skewed())
    balancer = subject.build()
    _update(balancer, first, _skewed().flip(0))
    _update(balancer, second, _skewed())
    _expect_equal(alone, second, "after another layer")


@law(BALANCER, needs=(the_same_load_makes_the_same_update,))
def a_copy_is_the_same_balancer(subject: Subject) -> None:
    """A deep or pickled copy makes the same update.

    Store plain numbers as attributes, not lambdas.
    """
    balancer, router = subject.build(), _router()
    copies = {"deep": copy.deepcopy(balancer), "pickled": pickle.loads(pickle.dumps(balancer))}
    _update(balancer, router, _skewed())
    for name, other in copies.items():
        copied = _router()
        _update(other, copied, _skewed())
        _expect_equal(router, copied, f"of the {name} copy")


@law(BALANCER, needs=(the_same_load_makes_the_same_update,))
def a_router_that_was_cast_is_balanced_in_fp32(subject: Subject) -> None:
    """The bias of a router cast to bf16 gets the same update, bit for bit.

    Compute in the dtype of the bias, not of the weight: near 1, bf16 has steps of 0.008.
    """
    router, cast = _router(), _router().bfloat16()
    for each in (router, cast):
        each.e_score_correction_bias.copy_(1 + torch.arange(EXPERTS) / 1000)
        _update(subject.build(), each, _skewed())
    same = torch.equal(router.e_score_correction_bias, cast.e_score_correction_bias)
    expect(same, "cast to bf16, the bias gets a different update")


@law(BALANCER, needs=FORM)
def an_expert_that_is_out_of_service_stays_out(subject: Subject) -> None:
    """A bias of -inf stays -inf, and the other biases stay finite.

    Do not average the biases: an expert out of service has -inf.
    """
    router = _router()
    router.e_score_correction_bias[5] = float("-inf")
    _update(subject.build(), router, _skewed())
    bias_E = router.e_score_correction_bias.detach()
    finite_E = bias_E.isfinite()
    expect(float(bias_E[5]) == float("-inf"), "a bias of -inf is another afterwards")
    expect(int(finite_E.sum()) == EXPERTS - 1, "other experts have a bias that is not finite")


@law(BALANCER, needs=FORM)
def a_router_that_cannot_be_balanced_is_a_problem(subject: Subject) -> None:
    """A router without a selection bias raises a `ProblemError`, unless the balancer changes it by other means.

    Silently balancing nothing looks like a bad rate: report that the router has no `e_score_correction_bias`.
    """
    router = _router()
    del router.e_score_correction_bias
    router.e_score_correction_bias = None  # pyright: ignore[reportAttributeAccessIssue]
    before = copy.deepcopy(router.state_dict())
    try:
        _update(subject.build(), router, _skewed())
    except ProblemError:
        return
    after = router.state_dict()
    changed = before.keys() != after.keys() or any(not torch.equal(after[name], before[name]) for name in before)
    expect(changed, "a router without a bias is neither refused nor changed")


@law(BALANCER, needs=FORM, capability="selection-bias")
def a_router_without_a_bias_is_refused(subject: Subject) -> None:
    """A router whose `e_score_correction_bias` is None raises a `ProblemError`.

    `config validate` refuses such a router beside this balancer, before anything is built.
    """
    router = _router()
    del router.e_score_correction_bias
    router.e_score_correction_bias = None  # pyright: ignore[reportAttributeAccessIssue]
    try:
        _update(subject.build(), router, _skewed())
    except ProblemError:
        return
    expect(False, "the router is not refused")


@law(BALANCER, needs=FORM)
def counts_of_another_number_of_experts_are_refused(subject: Subject) -> None:
    """Counts for a different number of experts raise an error.

    A single count would be broadcast over all experts: compare the shapes.
    """
    for number in (1, EXPERTS // 2, EXPERTS + 1):
        try:
            _update(subject.build(), _router(), torch.arange(number))
        except Exception:  # any refusal will do
            continue
        expect(False, f"{number} counts are taken for {EXPERTS} experts")


@law(BALANCER, needs=FORM, capability="expert-symmetric")
def experts_under_other_numbers_are_balanced_alike(subject: Subject) -> None:
    """Permuting the counts permutes the change of the bias.

    Treat all experts alike; if groups or devices matter, do not declare `expert-symmetric`.
    """
    order_E = torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(3))
    plain, ordered = _moved(subject, _skewed()), _moved(subject, _skewed()[order_E])
    expect(bool(plain.any()), "the bias does not move")
    worst = float((plain[order_E] - ordered).abs().max())
    expect(worst <= 1e-5 * float(plain.abs().max()), f"the bias moves differently, by up to {worst:.3g}")


@law(BALANCER, needs=FORM, capability="scale-free")
def a_larger_batch_moves_the_bias_as_far(subject: Subject) -> None:
    """A load 1,000 times as large with the same shares gives the same update.

    Divide by the mean load, or use only the sign of the difference, so that a rate means the same for any batch size.
    """
    plain, larger = _moved(subject, _skewed()), _moved(subject, 1000 * _skewed())
    expect(bool(plain.any()), "the bias does not move")
    worst = float((plain - larger).abs().max())
    expect(
        worst <= 1e-5 * float(plain.abs().max()),
        f"with 1,000 times the load the bias moves differently, by {worst:.3g}",
    )


@law(BALANCER, needs=FORM, capability="exact-counts")
def loads_that_differ_by_one_are_told_apart(subject: Subject) -> None:
    """With loads around 2^40, one token more and one token fewer give different biases.

    fp32 has 24 bits of precision: subtract the integers before converting.
    """
    counts_E = torch.full((EXPERTS,), 2**40)
    counts_E[0] += 1
    counts_E[1] -= 1
    moved_E = _moved(subject, counts_E)
    seen = f"one more moves the bias by {float(moved_E[0])}, one fewer by {float(moved_E[1])}"
    expect(float(moved_E[0]) < float(moved_E[1]), seen)


def _router(k: int = 1) -> BiasedRouter:
    return seeded(lambda: BiasedRouter(k))


def _skewed() -> Tensor:
    """Counts [E], all different."""
    return torch.arange(EXPERTS).square() + 1


def _update(balancer: Any, router: Any, counts_E: Tensor, step: int = 0) -> None:
    """The end of a step in which each expert was chosen by as many tokens as its count says."""
    tokens = ((count, _token(router, expert)) for expert, count in enumerate(counts_E.tolist()))
    _end_step(balancer, router, counts_E, tokens, step)


def _end_step(balancer: Any, router: Any, counts_E: Tensor, routings: Iterable[tuple[int, Routing]], step: int) -> None:
    """What the training loop does after a step whose micro-batches are `routings`, each of them so many times."""
    more: dict[str, Tensor] = {}
    if hasattr(balancer, "statistic"):
        with torch.no_grad():
            parts = [times * balancer.statistic(router, routing) for times, routing in routings]
        more["statistic"] = torch.stack(parts).sum(dim=0)
    balancer.update(router, counts_E, tokens_seen=1024 * (step + 1), **more)


def _token(router: Any, expert: int) -> Routing:
    """One token, to which all other experts are alike; it chooses this one whatever the bias."""
    expert_TK = torch.tensor([[expert % EXPERTS]])
    biased_TE = nn.functional.one_hot(expert_TK[:, 0], EXPERTS).float()
    bias_E = router.e_score_correction_bias
    score_TE = biased_TE if bias_E is None else biased_TE - bias_E.nan_to_num(neginf=0.0)
    return Routing(expert_TK, torch.ones(1, 1), score_TE, score_TE)


def _moved(subject: Subject, counts_E: Tensor) -> Tensor:
    """By how much one update moves the bias of a fresh router."""
    router = _router()
    _update(subject.build(), router, counts_E)
    return router.e_score_correction_bias.detach()


def _expect_unchanged(subject: Subject, counts_E: Tensor, after: str) -> None:
    router = _router()
    router.e_score_correction_bias.copy_(torch.arange(EXPERTS) / 10)
    before = copy.deepcopy(router)
    _update(subject.build(), router, counts_E)
    _expect_equal(before, router, f"after {after}")


def _expect_equal(first: nn.Module, second: nn.Module, when: str) -> None:
    others = second.state_dict()
    differing = [name for name, tensor in first.state_dict().items() if not torch.equal(tensor, others[name])]
    expect(not differing, f"{when}, {', '.join(differing)} differs")


LAWS = laws_in(globals())
