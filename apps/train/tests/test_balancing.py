"""The gradient of a loss of the whole batch does not depend on how the batch is cut: in fp64, and on real ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import side_by_side
from torch import Tensor, nn
from two_gates import (
    EXPERTS,
    LENGTH,
    LOSSES,
    SEQUENCES,
    TOLERANCE,
    TwoGates,
    batch,
    gradients,
    relative_error,
    run_step,
    summed,
    whole_batch,
)

from penstock.hooks.contracts import Balancer, Routing
from penstock.routers.balancers import LossFree
from penstock.routers.imbalance import gini_loss
from penstock.routers.load import expert_load
from penstock.routers.losses import GlobalLoss, SequenceLoss, SwitchLoss, switch_loss
from penstock.train.balancing import Balancing, gradient_error

SPLITS = [[12], [6, 6], [1, 11], [4, 4, 4], [5, 0, 7], [1] * 12]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("padding", [0, 3])
def test_counts_first_has_the_gradient_of_the_whole_batch_for_any_split_and_padding(name, split, padding):
    expected, value = whole_batch(name)
    model = TwoGates()
    balancing = Balancing(model, {name: LOSSES[name]("counts-first")}, [], parts=len(split))
    _, metrics, found = run_step(model, balancing, list(batch().split(split)), padding)
    assert found == pytest.approx(value, abs=TOLERANCE)
    assert relative_error(gradients(model), expected) < TOLERANCE
    assert "balance/global/gradient_error" not in metrics


RANK = """
import json, sys
import torch, torch.distributed as dist

sys.path.insert(0, sys.argv[1])
import two_gates as law
from penstock.train.balancing import Balancing

store, rank, ranks, parts, padding = sys.argv[2], *map(int, sys.argv[3:7])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
reductions = 0

def total(tensor):
    global reductions
    reductions += 1
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor

answers = {}
for name, make in law.LOSSES.items():
    model = law.TwoGates()
    balancing = Balancing(model, {name: make("counts-first")}, [], parts=parts, ranks=ranks, total=total)
    reductions = 0
    load, _, _ = law.run_step(model, balancing, list(law.batch().chunk(ranks)[rank].chunk(parts)), padding)
    counted = reductions
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    expected, _ = law.whole_batch(name)
    answers[name] = [law.relative_error(law.gradients(model), expected), int(load.counts_LE.sum()), counted]
print(json.dumps(answers))
dist.destroy_process_group()
"""


def on_ranks(folder: Path, ranks: int, parts: int, padding: int) -> list[dict[str, list[float]]]:
    shared = [str(Path(__file__).parent), str(folder / "store")]
    calls = [[*shared, *map(str, (rank, ranks, parts, padding))] for rank in range(ranks)]
    return [json.loads(answer) for answer in side_by_side(RANK, calls)]


@pytest.mark.parametrize(
    ("ranks", "parts", "padding"), [(1, 4, 2), (2, 1, 0), (2, 3, 2), (3, 2, 0), (4, 1, 1), (4, 3, 0)]
)
def test_ranks_that_speak_gloo_sum_to_the_gradient_of_the_whole_batch_with_one_reduction(
    tmp_path, ranks, parts, padding
):
    for answers in on_ranks(tmp_path, ranks, parts, padding):
        for name, (error, counted, reductions) in answers.items():
            assert error < TOLERANCE, name
            assert counted == 2 * 2 * SEQUENCES * LENGTH
            assert reductions == 1


# ---------------------------------------------------------------------------------------------- approximate scopes


@pytest.mark.parametrize("scope", ["buffer", "lagged"])
@pytest.mark.parametrize("name", LOSSES)
def test_an_approximate_scope_says_how_far_its_gradient_is_from_exact(name, scope):
    """The metric is the error with respect to mean scores: the oracle differentiates by them, not by weights."""
    model = TwoGates()
    balancing = Balancing(model, {name: LOSSES[name](scope)}, [], parts=3)
    rows = list(batch().chunk(3))
    run_step(model, balancing, rows)
    model.zero_grad()
    before_LE = balancing.state()["counts"].sum(dim=0)
    _, metrics, _ = run_step(model, balancing, rows)
    passes = [expert_load(model(each).routings).chosen_LE for each in rows]
    exact_LE = summed(passes)
    used = [summed(passes[: part + 1]) if scope == "buffer" else before_LE for part in range(3)]
    measure = LOSSES[name](scope)
    wrong = size = 0.0
    for used_LE in used:
        for used_E, exact_E in zip(used_LE, exact_LE, strict=True):
            slopes = [slope_by_differences(measure, each_E) for each_E in (used_E, exact_E)]
            wrong += float((slopes[0] - slopes[1]).square().sum())
            size += float(slopes[1].square().sum())
    assert metrics[f"balance/{name}/gradient_error"] == pytest.approx((wrong / size) ** 0.5, rel=1e-3, abs=1e-6)
    if scope == "lagged":  # no weight has changed, so neither have the counts
        assert wrong == 0
    else:
        assert metrics[f"balance/{name}/gradient_error"] > 0.05


def slope_by_differences(loss: Any, counts_E: Tensor) -> Tensor:
    """Central differences of the loss's straight-through objective along each pair (expert e up, all others down)."""
    share_E = counts_E.double() / counts_E.sum()
    measure = getattr(loss, "measure", None)
    if measure is None:
        return EXPERTS * (share_E - share_E.mean())
    step = 1e-7
    directions = torch.eye(EXPERTS, dtype=torch.float64)
    slope_E = torch.stack([measure(share_E + step * row) - measure(share_E - step * row) for row in directions])
    slope_E = slope_E / (2 * step)
    return slope_E - slope_E.mean()


def test_the_error_of_the_global_loss_is_that_of_its_shares():
    exact_LE, used_LE = torch.tensor([[4, 2, 2, 0]]), torch.tensor([[2, 2, 2, 2]])
    assert gradient_error(GlobalLoss(), [used_LE], exact_LE) == pytest.approx(1.0)
    assert gradient_error(GlobalLoss(), [exact_LE, 3 * exact_LE], exact_LE) == 0
    half_LE = torch.tensor([[3, 2, 2, 1]])
    assert gradient_error(GlobalLoss(), [half_LE], exact_LE) == pytest.approx(0.5)
    assert gradient_error(GlobalLoss(), [used_LE], used_LE) == 0
    assert gradient_error(GlobalLoss(), [exact_LE], used_LE) == float("inf")


def test_lagged_counts_are_those_of_the_step_before_and_of_the_checkpoint():
    first, second = list(batch().chunk(2))
    model = TwoGates()
    balancing = Balancing(model, {"global": GlobalLoss(1.0, "lagged")}, [])
    run_step(model, balancing, [first])
    assert not any(gradient.any() for gradient in gradients(model).values())  # there was no step before
    counts_LE = expert_load(model(first).routings).chosen_LE
    model.zero_grad()
    resumed = TwoGates()
    loaded = Balancing(resumed, {"global": GlobalLoss(1.0, "lagged")}, [])
    loaded.load_state(balancing.state())
    run_step(model, balancing, [second])
    run_step(resumed, loaded, [second])
    oracle = TwoGates()
    summed(
        switch_loss(score_TE=routing.score_TE, counts_E=counts_E, tokens=SEQUENCES * LENGTH)
        for counts_E, routing in zip(counts_LE, oracle(second).routings.values(), strict=True)
    ).backward()
    assert relative_error(gradients(model), gradients(oracle)) < TOLERANCE
    assert all(torch.equal(one, gradients(resumed)[name]) for name, one in gradients(model).items())
    fresh = Balancing(model, {}, [])
    fresh.load_state(Balancing(model, {}, []).state())
    assert fresh.state() == {}


# ---------------------------------------------------------------------------------------------- what is counted


def test_the_pass_that_counts_leaves_no_trace_and_is_only_paid_where_it_is_needed():
    def calls(scope: Any, parts: int) -> tuple[int, int]:
        model = TwoGates()
        forwards = 0

        def count(*_: object) -> None:
            nonlocal forwards
            forwards += 1

        model.register_forward_hook(count)
        before = torch.get_rng_state()
        run_step(
            model, Balancing(model, {"global": GlobalLoss(1.0, scope)}, [], parts=parts), list(batch().chunk(parts))
        )
        assert torch.equal(torch.get_rng_state(), before)
        return forwards, int(model.routers[1].calls)

    assert calls("counts-first", 1) == (1, 1)
    assert calls("counts-first", 3) == (6, 3)
    assert calls("buffer", 3) == calls("lagged", 3) == (3, 3)


@pytest.mark.parametrize("checkpointed", [None, False])
def test_load_is_counted_once_without_padding_before_and_after_drops(checkpointed):
    model = TwoGates(capacity=9, checkpointed=checkpointed)
    balancing = Balancing(model, {"global": GlobalLoss(1.0)}, [], parts=3)
    load, metrics, _ = run_step(model, balancing, list(batch().chunk(3)), padding=2)
    chosen = load.counts_LE + load.dropped_LE
    assert chosen.sum(-1).tolist() == [2 * SEQUENCES * LENGTH] * 2
    assert load.dropped_LE.sum() > 0
    assert metrics["load/dropped"] == int(load.dropped_LE.sum()) / int(chosen.sum())
    assert metrics["load/chosen_max_violation"] > metrics["load/max_violation"]


def test_the_gradient_is_the_same_under_activation_checkpointing():
    expected, _ = whole_batch("global")
    model = TwoGates(checkpointed=False)
    run_step(model, Balancing(model, {"global": GlobalLoss(1.0)}, [], parts=4), list(batch().chunk(4)))
    assert relative_error(gradients(model), expected) < TOLERANCE


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_losses_of_sequences_and_several_losses_at_once_do_not_depend_on_equal_micro_batches(split):
    if len(set(split)) > 1:
        split = [3] * 4
    losses = {"sequence": SequenceLoss(0.5), "global": GlobalLoss(2.0), "gini": gini_loss(1.0)}
    whole, parted = TwoGates(), TwoGates()
    _, _, expected = run_step(whole, Balancing(whole, losses, []), [batch()])
    balancing = Balancing(parted, losses, [], parts=len(split))
    _, _, value = run_step(parted, balancing, list(batch().split(split)), padding=2)
    assert value == pytest.approx(expected, abs=TOLERANCE)
    assert relative_error(gradients(parted), gradients(whole)) < TOLERANCE


def test_each_loss_is_measured_alone_unweighted():
    model = TwoGates()
    balancing = Balancing(model, {"switch": SwitchLoss(0.5), "global": GlobalLoss(3.0)}, [])
    balancing.begin([], tokens=SEQUENCES * LENGTH)
    routings = model(batch()).routings
    objective, measured = balancing.penalty(routings, sequences=SEQUENCES)
    mean = torch.stack([SwitchLoss()(routing) for routing in routings.values()]).mean()
    assert measured["balance/switch"].item() == pytest.approx(mean.item())
    assert measured["balance/global"].item() == pytest.approx(mean.item())
    assert objective is not None
    assert objective.item() == pytest.approx(2 * 3.5 * mean.item())


def test_balancers_act_once_a_step_on_the_whole_batch_and_are_given_their_statistic():
    class Witness(Balancer):
        """Keeps what it is given."""

        def __init__(self) -> None:
            self.seen: list[tuple[list[int], int, int]] = []

        def statistic(self, router: Any, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
            return torch.tensor(len(routing.score_TE))

        def update(self, router: Any, counts_E: Tensor, *, tokens_seen: int, statistic: Any = None) -> None:
            self.seen.append((counts_E.tolist(), tokens_seen, int(statistic)))

    model, witness = TwoGates(capacity=9), Witness()
    run_step(
        model, Balancing(model, {"switch": SwitchLoss()}, [witness, LossFree(0.01)], parts=3), list(batch().chunk(3))
    )
    chosen_LE = summed(expert_load(each.routings).chosen_LE for each in map(TwoGates(capacity=9), batch().chunk(3)))
    tokens = SEQUENCES * LENGTH
    assert witness.seen == [(row, tokens, tokens) for row in chosen_LE.tolist()]
    moved = [gate.e_score_correction_bias.sign().tolist() for gate in model.routers.values()]
    assert moved == (chosen_LE.double().mean(-1, keepdim=True) - chosen_LE).sign().tolist()


def test_a_dense_model_has_nothing_to_balance():
    class Dense(nn.Module):
        routers: dict[int, Any] = {}

    balancing = Balancing(Dense(), {"global": GlobalLoss(1.0)}, [LossFree()])
    balancing.begin([], tokens=10)
    assert balancing.penalty({}, sequences=1) == (None, {})
    load, metrics = balancing.finish(tokens_seen=10)
    assert (load.layers, metrics) == ((), {})
