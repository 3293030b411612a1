"""Balancing bugs that were published about other trainers: each is reproduced, and shown not to be ours.

The measure is the gradient's distance from that of the loss's definition on the whole batch; ours is held to 1e-10 in
`test_balancing`. Pooled layers are in the tests of `penstock-routers`, which has transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from two_gates import (
    EXPERTS,
    LENGTH,
    SEQUENCES,
    TwoGates,
    batch,
    gradients,
    padded,
    relative_error,
    run_step,
    summed,
    whole_batch,
)

from penstock.hooks.contracts import Routing
from penstock.routers.load import expert_load
from penstock.routers.losses import GlobalLoss, SequenceLoss, SwitchLoss, normalized, switch_loss
from penstock.train.balancing import Balancing

TOKENS, PARTS = SEQUENCES * LENGTH, 4


def error_of(objective: Callable[[TwoGates], Tensor]) -> float:
    """Relative error of an objective's gradient against the global loss of the whole batch."""
    expected, _ = whole_batch("global")
    model = TwoGates()
    objective(model).backward()
    return relative_error(gradients(model), expected)


def micro_batches(model: TwoGates) -> list[tuple[int, Routing]]:
    """(layer, routing) of every micro-batch in order."""
    return [item for token_BS in batch().chunk(PARTS) for item in model(token_BS).routings.items()]


def counted(routing: Routing) -> Tensor:
    return expert_load({0: routing}).chosen_LE[0]


def test_the_definition_itself_has_no_error():
    def exact(model: TwoGates) -> Tensor:
        total = {layer: counted(routing) for layer, routing in model(batch()).routings.items()}
        return summed(
            switch_loss(score_TE=routing.score_TE, counts_E=total[layer], tokens=TOKENS)
            for layer, routing in micro_batches(model)
        )

    assert error_of(exact) < 1e-10


def test_micro_batch_losses_are_averaged():
    """The mean of micro-batch losses is another objective (arXiv 2501.11873; the default almost everywhere)."""
    assert error_of(lambda model: summed(SwitchLoss()(routing) for _, routing in micro_batches(model)) / PARTS) > 0.3


def test_counts_run_over_the_step_and_tokens_do_not():
    """Megatron-LM #7213: running counts are divided by the tokens of the current micro-batch."""

    def running(model: TwoGates) -> Tensor:
        total = dict.fromkeys(model.routers, torch.zeros(EXPERTS, dtype=torch.float64))
        objective = torch.zeros((), dtype=torch.float64)
        for layer, routing in micro_batches(model):
            total[layer] = total[layer] + counted(routing)
            share_E = total[layer] / (2 * len(routing.score_TE))
            objective = objective + EXPERTS * (share_E * normalized(routing.score_TE).mean(0)).sum() / PARTS
        return objective

    assert error_of(running) > 1


def test_the_gradient_is_divided_by_the_ranks_once_too_often():
    """Megatron-LM #3672: gradients of ranks are averaged, and the loss of the global batch needs their sum."""

    def averaged(model: TwoGates) -> Tensor:
        total = {layer: counted(routing) for layer, routing in model(batch()).routings.items()}
        return summed(
            switch_loss(score_TE=routing.score_TE, counts_E=total[layer], tokens=TOKENS) / PARTS
            for layer, routing in micro_batches(model)
        )

    assert error_of(averaged) == pytest.approx(1 - 1 / PARTS)


def test_the_running_buffer_of_the_paper_is_an_approximation():
    """arXiv 2501.11873 Algorithm 1: the first micro-batches are balanced by counts that are not the batch's."""
    expected, _ = whole_batch("global")
    model = TwoGates()
    balancing = Balancing(model, {"global": GlobalLoss(1.0, "buffer")}, [], parts=PARTS)
    _, metrics, _ = run_step(model, balancing, list(batch().chunk(PARTS)))
    error = relative_error(gradients(model), expected)
    assert error > 0.1
    assert 0.1 < metrics["balance/global/gradient_error"] < 10 * error


@pytest.mark.parametrize("checkpointed", [None, False])
def test_a_counter_in_the_forward_pass_counts_twice_under_activation_checkpointing(checkpointed):
    """torchtitan's expert counts, halved again by hand; prime-rl #2953."""
    model = TwoGates(checkpointed=checkpointed)
    balancing = Balancing(model, {"global": GlobalLoss(1.0)}, [])
    load, _, _ = run_step(model, balancing, [batch()])
    assert int(model.routers[1].calls) == (1 if checkpointed is None else 2)
    assert load.counts_LE.sum(-1).tolist() == [2 * TOKENS] * 2


def test_padding_is_counted():
    """An expert that takes the padding looks full; most implementations have no mask at all."""
    token_BS, mask_BS = padded(batch(), 6)
    assert mask_BS is not None

    def with_padding(model: TwoGates) -> Tensor:
        return summed(GlobalLoss()(routing) for routing in model(token_BS).routings.values())

    def without(model: TwoGates) -> Tensor:
        return summed(GlobalLoss()(routing, mask_BS.flatten()) for routing in model(token_BS).routings.values())

    assert error_of(with_padding) > 0.3
    assert error_of(without) < 1e-10


def test_the_load_is_chosen_again_without_the_bias():
    """Megatron-LM's scores for the auxiliary loss: the top k of the bare scores is a load that never happened."""

    def biased() -> TwoGates:
        model = TwoGates()
        for gate in model.routers.values():
            gate.e_score_correction_bias.copy_(torch.linspace(0.4, -0.4, EXPERTS))
        return model

    def loss(model: TwoGates, again: bool) -> dict[str, Tensor]:
        for routing in model(batch()).routings.values():
            expert_TK = routing.score_TE.topk(2, dim=-1).indices if again else routing.expert_TK
            counts_E = expert_TK.flatten().bincount(minlength=EXPERTS)
            switch_loss(score_TE=routing.score_TE, counts_E=counts_E, tokens=TOKENS).backward(retain_graph=True)
        return gradients(model)

    model = biased()
    run_step(model, Balancing(model, {"global": GlobalLoss(1.0)}, [], parts=PARTS), list(batch().chunk(PARTS)))
    assert relative_error(gradients(model), loss(biased(), again=False)) < 1e-10
    assert relative_error(gradients(model), loss(biased(), again=True)) > 0.3


def test_load_is_counted_after_drops():
    """Megatron-LM #1513: an expert that overflows looks no fuller than its capacity."""
    capped = TwoGates(capacity=15)
    routing = capped(batch()).routings[1]
    assert routing.kept_TK is not None
    kept_E = routing.expert_TK[routing.kept_TK].bincount(minlength=EXPERTS)
    assert kept_E.max() == 15 < counted(routing).max()
    load, _, _ = run_step(capped, Balancing(capped, {"global": GlobalLoss(1.0)}, []), [batch()])
    assert load.dropped_LE is not None
    assert torch.equal(load.counts_LE[0], kept_E)
    assert torch.equal((load.counts_LE + load.dropped_LE)[0], counted(routing))
    switch = switch_loss(score_TE=routing.score_TE, counts_E=counted(routing), tokens=TOKENS)
    assert torch.equal(GlobalLoss()(routing), switch)


@pytest.mark.parametrize("parts", [1, 2, 6])
def test_the_loss_of_sequences_shrinks_with_the_micro_batch(parts):
    """Megatron-LM #5798: divided by the sequences of a micro-batch and then averaged; ours does not depend on them."""

    def gradient(divided: bool, parts: int) -> dict[str, Tensor]:
        model = TwoGates()
        weight = 1 / (SEQUENCES / parts) if divided else 1.0
        balancing = Balancing(model, {"sequence": SequenceLoss(weight)}, [], parts=parts)
        run_step(model, balancing, list(batch().chunk(parts)))
        return gradients(model)

    assert relative_error(gradient(False, parts), gradient(False, 1)) < 1e-10
    if parts > 1:
        assert relative_error(gradient(True, parts), gradient(True, 1)) > 0.5


def test_the_penalty_is_computed_and_then_lost():
    """NeMo Automodel #1408: the auxiliary loss was returned and dropped, and no gradient ever flowed."""
    model: Any = TwoGates()
    run_step(model, Balancing(model, {"switch": SwitchLoss()}, []), [batch()])
    assert all(bool(parameter.grad.any()) for parameter in model.gates.parameters())
