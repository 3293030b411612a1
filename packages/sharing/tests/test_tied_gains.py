"""Laws of one matrix for several layers, each with gains of its own."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

from penstock.hooks.contracts import ParameterLayout, ParameterRole, SharingPlan
from penstock.hooks.problems import ProblemError
from penstock.sharing.apply import apply_sharing, share_module
from penstock.sharing.tied_gains import TiedGains

Q = tuple(f"layers.{layer}.q.weight" for layer in range(4))


class Site:
    role, layout = ParameterRole.MATRIX, ParameterLayout()

    def __init__(self, layer: nn.Module, name: str) -> None:
        self.layer, self.name = layer, name

    @property
    def weight(self):
        return self.layer.get_parameter("weight")

    @property
    def transforms(self):
        return cast(nn.Sequential, self.layer.get_submodule("site"))

    def add(self, transform):
        self.transforms.append(transform)
        return f"{self.name}.site.{len(self.transforms) - 1}"

    def effective(self):
        return self.transforms(self.weight)


class Layered(nn.Module):
    """Four layers of a square and a tall matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(3, 3), "up": nn.Linear(3, 5)}) for _ in range(4))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.add_module("site", nn.Sequential())

    def weight_sites(self):
        named = ((name, each) for name, each in self.named_modules() if isinstance(each, nn.Linear))
        return {f"{name}.weight": Site(each, name) for name, each in named}

    def parameter_roles(self):
        return {name: ParameterRole.MATRIX for name, _ in self.named_parameters()}


def shared(strategy, model=None):
    model = model or Layered()
    return model, apply_sharing(cast(Any, model), [strategy])


def test_layers_are_one_matrix_and_differ_by_their_gains():
    model, result = shared(TiedGains())
    sites = model.weight_sites()
    assert len({id(sites[name].weight) for name in Q}) == 1
    gains = {name: gain for name, gain in model.named_parameters() if name.endswith("gain")}
    assert len(gains) == 8
    assert result.roles() == dict.fromkeys(gains, ParameterRole.NORM)
    with torch.no_grad():
        gains["layers.2.q.site.0.gain"].copy_(torch.tensor([1.0, 2.0, -1.0]))
    assert torch.equal(sites[Q[0]].effective(), sites[Q[0]].weight)
    assert torch.equal(sites[Q[2]].effective(), sites[Q[0]].weight * torch.tensor([[1.0], [2.0], [-1.0]]))


def test_the_shared_matrix_gets_the_gradient_of_every_use():
    model, _ = shared(TiedGains(["*.q.weight"]))
    sites = model.weight_sites()
    torch.stack([(layer + 1) * sites[name].effective().sum() for layer, name in enumerate(Q)]).sum().backward()
    gradient = sites[Q[0]].weight.grad
    assert gradient is not None
    assert torch.equal(gradient, torch.full((3, 3), 10.0))


@pytest.mark.parametrize(
    ("strategy", "groups"),
    [
        (TiedGains(["*.q.weight"]), (Q,)),
        (TiedGains(["*.q.weight"], interval=2), (Q[:2], Q[2:])),
        (TiedGains(["*.q.weight"], interval=3), (Q[:3],)),
        (TiedGains(["layers.[12].q.weight"]), (Q[1:3],)),
    ],
)
def test_patterns_and_interval_say_which_layers_share(strategy, groups):
    assert shared(strategy)[1].plan == SharingPlan(groups)


def test_the_state_is_restored_bit_for_bit_and_a_wrong_one_is_refused():
    model, result = shared(TiedGains())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gain"):
                parameter.normal_()
    other, restored = shared(TiedGains())
    restored.load_stored_state({name: each.clone() for name, each in result.stored_state().items()})
    for name, site in model.weight_sites().items():
        assert torch.equal(site.effective(), other.weight_sites()[name].effective())
    state = dict(result.stored_state())
    state["strange"] = state.pop(min(state))
    with pytest.raises(ProblemError) as caught:
        restored.load_stored_state(state)
    assert len(caught.value.problems) == 2


def test_the_report_says_what_is_saved_and_lost():
    weights = [site.weight.detach().clone() for name, site in Layered().weight_sites().items() if name in Q]
    _, result = shared(TiedGains(["*.q.weight"]))
    [group] = result.report()
    weight_QHD = torch.stack(weights)
    lost = (weight_QHD - weight_QHD[0]).square().sum() / weight_QHD.square().sum()
    assert (group.names, group.saved) == (Q, 27)
    assert group.error == pytest.approx(float(lost.sqrt()), rel=1e-5)


def test_two_strategies_for_one_matrix_are_refused():
    with pytest.raises(ProblemError, match="claimed"):
        apply_sharing(cast(Any, Layered()), [TiedGains(["*.q.*"]), TiedGains()])


def test_nothing_to_share_and_a_model_without_sites_are_refused():
    with pytest.raises(ProblemError, match="no two layers"):
        shared(TiedGains(["*.gate.weight"]))
    with pytest.raises(ProblemError, match="on use"):
        share_module(nn.Linear(2, 2), [TiedGains()])
