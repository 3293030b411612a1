"""Laws of sharing: one tensor under many names, in the model, in its gradients, and in its files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penstock.hooks import ProblemError
from penstock.hooks.contracts import SharingPlan
from penstock.sharing.plan import combine, parameter_savings, plan_of, restored_state, share, stored_state

PLAN = SharingPlan(groups=(("embed.weight", "head.weight"),))


class TinyLanguageModel(nn.Module):
    """The head is registered first, so that the stored name is not the one that torch lists first by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 10, bias=False)
        self.embed = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, token_BS: Tensor) -> Tensor:
        hidden_BSD = self.embed(token_BS)
        for block in self.blocks:
            hidden_BSD = torch.tanh(block(hidden_BSD))
        return self.head(hidden_BSD)


def tied(plan: SharingPlan = PLAN) -> TinyLanguageModel:
    model = TinyLanguageModel()
    share(model, plan)
    return model


def codes(error: ProblemError) -> list[str]:
    return [problem.code for problem in error.problems]


def test_shared_names_are_one_parameter_with_the_values_of_the_first():
    model = TinyLanguageModel()
    before = model.embed.weight
    share(model, PLAN)
    assert model.head.weight is model.embed.weight is before


def test_named_parameters_lists_a_shared_tensor_once():
    names = [name for name, _ in tied().named_parameters()]
    assert len(names) == len([name for name, _ in TinyLanguageModel().named_parameters()]) - 1
    assert len({"embed.weight", "head.weight"} & set(names)) == 1


def test_the_gradient_is_the_sum_over_all_uses():
    separate, together = TinyLanguageModel(), tied()
    separate.load_state_dict(together.state_dict())
    token_BS = torch.randint(10, (2, 5))
    for model in (separate, together):
        model(token_BS).square().sum().backward()
    assert separate.embed.weight.grad is not None
    assert separate.head.weight.grad is not None
    torch.testing.assert_close(together.embed.weight.grad, separate.embed.weight.grad + separate.head.weight.grad)


def test_an_optimizer_steps_a_shared_tensor_once():
    model = tied()
    before = model.embed.weight.detach().clone()
    model.embed.weight.grad = torch.ones_like(before)
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert torch.equal(model.head.weight, before - 0.5)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda model: model.to(torch.bfloat16), id="to dtype"),
        pytest.param(lambda model: model.double(), id="double"),
        pytest.param(copy.deepcopy, id="deepcopy"),
    ],
)
def test_sharing_survives(change):
    model = change(tied())
    assert model.head.weight is model.embed.weight


def test_sharing_twice_is_sharing_once():
    model = tied()
    share(model, PLAN)
    assert model.head.weight is model.embed.weight


def test_layers_can_be_shared_across_depth():
    plan = SharingPlan(
        groups=(
            ("blocks.0.weight", "blocks.1.weight", "blocks.2.weight"),
            ("blocks.0.bias", "blocks.1.bias", "blocks.2.bias"),
        )
    )
    model = tied(plan)
    assert model.blocks[2].weight is model.blocks[0].weight
    assert model.blocks[1].bias is model.blocks[0].bias


@pytest.mark.parametrize(
    ("groups", "code", "named"),
    [
        ((("embed.weight", "heda.weight"),), "unknown-parameter", ["heda.weight", "head.weight"]),
        ((("embed.weight", "blocks.0.weight"),), "unequal-parameters", ["(10, 4)", "(4, 4)", "blocks.0.weight"]),
        (
            (("embed.weight", "head.weight"), ("head.weight", "blocks.0.weight")),
            "shared-twice",
            ["'head.weight'", "(embed.weight, head.weight)", "(head.weight, blocks.0.weight)", "group 0 and group 1"],
        ),
        ((("embed.weight", "embed.weight"),), "shared-twice", ["'embed.weight'"]),
        (((),), "bad-sharing-plan", ["group 0"]),
    ],
)
def test_a_plan_that_does_not_fit_is_named_and_changes_nothing(groups, code: str, named: list[str]):
    model = TinyLanguageModel()
    before = dict(model.named_parameters())
    with pytest.raises(ProblemError) as caught:
        share(model, SharingPlan(groups=groups))
    assert code in codes(caught.value)
    assert all(part in str(caught.value) for part in named)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_a_good_group_before_a_bad_one_is_not_applied():
    model = TinyLanguageModel()
    with pytest.raises(ProblemError):
        share(model, SharingPlan(groups=(*PLAN.groups, ("blocks.0.weight", "no.such"))))
    assert model.head.weight is not model.embed.weight


def test_all_problems_are_raised_at_once():
    plan = SharingPlan(groups=(("embed.weight", "blocks.0.weight"), ("no.such", "head.weight")))
    with pytest.raises(ProblemError) as caught:
        share(TinyLanguageModel(), plan)
    assert codes(caught.value) == ["unequal-parameters", "unknown-parameter"]


def test_unequal_dtypes_are_not_shared():
    model = TinyLanguageModel()
    model.head.to(torch.bfloat16)
    with pytest.raises(ProblemError, match="bfloat16"):
        share(model, PLAN)


def test_safetensors_round_trip_is_bit_equal_and_restores_one_object(tmp_path: Path):
    model = tied()
    save_file(stored_state(model.state_dict(), PLAN), tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert "head.weight" not in loaded
    state = restored_state(loaded, PLAN)
    assert state["head.weight"] is state["embed.weight"]
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    fresh = tied()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.head.weight, model.head.weight)


def test_stored_state_keeps_what_is_not_shared_as_it_is():
    state = tied().state_dict()
    kept = stored_state(state, PLAN)
    assert all(kept[name] is state[name] for name in kept)


def test_dropping_a_tensor_that_differs_is_refused():
    with pytest.raises(ProblemError, match=r"'head\.weight' and 'embed\.weight' hold different values"):
        stored_state(TinyLanguageModel().state_dict(), PLAN)


def test_restoring_over_a_tensor_that_differs_is_refused():
    with pytest.raises(ProblemError, match=r"'head\.weight' and 'embed\.weight' hold different values"):
        restored_state(TinyLanguageModel().state_dict(), PLAN)


def test_a_shared_tensor_with_nan_is_still_one_tensor():
    model = tied()
    with torch.no_grad():
        model.embed.weight.fill_(float("nan"))
    assert "head.weight" not in stored_state(model.state_dict(), PLAN)


@pytest.mark.parametrize("function", [stored_state, restored_state])
def test_a_state_without_the_stored_name_is_an_error(function):
    with pytest.raises(ProblemError, match=r"unknown parameter 'embed\.weight'"):
        function({"head.weight": torch.zeros(2)}, PLAN)


def test_a_plan_is_found_again_under_the_names_of_a_file():
    state = {f"hub.{name}": tensor for name, tensor in tied().state_dict().items()}
    assert plan_of(state) == SharingPlan(groups=(("hub.head.weight", "hub.embed.weight"),))
    halves = {"upper": torch.zeros(4, 2)[:2], "none": torch.zeros(0), "nothing": torch.zeros(0)}
    assert plan_of({**halves, "part": halves["upper"][:1]}) == SharingPlan()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(1, 5), max_size=3)), max_size=4),
)
def test_savings_are_the_parameters_that_are_no_longer_stored(groups: list[tuple[int, list[int]]]):
    plan = SharingPlan(groups=tuple(tuple(f"{i}.{j}" for j in range(size)) for i, (size, _) in enumerate(groups)))
    shapes = {name: tuple(groups[i][1]) for i, group in enumerate(plan.groups) for name in group}
    state = {group[0]: torch.ones(shapes[group[0]]) for group in plan.groups}
    full = restored_state(state, plan)
    before = sum(tensor.numel() for tensor in full.values())
    after = sum(tensor.numel() for tensor in stored_state(full, plan).values())
    assert parameter_savings(plan, shapes) == before - after


def test_savings_of_a_name_without_a_shape_are_an_error():
    with pytest.raises(ProblemError, match=r"head\.weight"):
        parameter_savings(PLAN, {"embed.weight": (10, 4)})


def test_combined_plans_hold_all_groups():
    other = SharingPlan(groups=(("blocks.0.weight", "blocks.1.weight"),))
    assert combine([PLAN, other]).groups == (*PLAN.groups, *other.groups)
    assert combine([]) == SharingPlan()


def test_a_conflict_names_both_owners_and_both_groups():
    other = SharingPlan(groups=(("blocks.0.weight", "head.weight"),))
    with pytest.raises(ProblemError) as caught:
        combine([PLAN, other])
    for part in ("sharing.0 and sharing.1", "(embed.weight, head.weight)", "(blocks.0.weight, head.weight)"):
        assert part in str(caught.value)
