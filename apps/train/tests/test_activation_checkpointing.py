"""A layer that computes again leaves no trace of the second time, and products that are kept are computed once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.hooks import ProblemError
from penstock.hooks.contracts import Routing
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.routers.cluster import Cluster
from penstock.run.config import TrainSettings
from penstock.train.activation_checkpointing import KEPT, Checkpointed
from penstock.train.layers import LayerPasses, layers_of


def build() -> GlmMoe:
    torch.manual_seed(0)
    sizes = {**GlmMoeConfig.example(Path()), "vocab_size": 50}
    model = GlmMoe(GlmMoeConfig(**sizes), make_router=lambda layer, **sizes: Cluster(**sizes))
    for parameter in model.parameters():  # what starts at zero would hide a difference
        if parameter.dim() >= 2:
            nn.init.normal_(parameter, std=0.1)
    return model


def passes(model: GlmMoe, mode: str) -> LayerPasses:
    changes = [] if mode == "none" else [Checkpointed.of(model, model.blocks(), selective=mode == "selective")]
    return LayerPasses(model.blocks(), changes)


TOKENS = torch.arange(60).view(2, 30) % 50


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[function.name()] += 1
        return function(*args, **(kwargs or {}))


def step(model: GlmMoe, mode: str) -> tuple[Tensor, Counter[str]]:
    """The loss, and how often each operator ran in the backward pass."""
    with passes(model, mode).training():
        loss = model.next_token_loss(TOKENS[:, :-1], TOKENS[:, 1:]).loss
    with Operators() as operators:
        loss.backward()
    return loss, operators.calls


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_gradients_have_the_bits_of_a_pass_that_keeps_everything(mode: str) -> None:
    one, two = build(), build()
    assert torch.equal(step(one, "none")[0], step(two, mode)[0])
    for (name, expected), found in zip(one.named_parameters(), two.parameters(), strict=True):
        assert expected.grad is not None, name
        assert found.grad is not None, name
        assert torch.equal(expected.grad, found.grad), name


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_a_router_gathers_what_it_learns_from_once(mode: str) -> None:
    """The sums are those of one pass, to the bit: twice the sum over twice the count rounds differently."""
    one, two = build(), build()
    step(one, "none")
    step(two, mode)
    for (name, expected), found in zip(one.named_buffers(), two.buffers(), strict=True):
        assert torch.equal(expected, found), name
    assert sum(int(router.nearest_E.sum()) for router in two.routers.values()) == 2 * 58  # pyright: ignore[reportAttributeAccessIssue]


def test_selective_computes_no_product_twice_and_full_all_that_the_gradient_needs() -> None:
    none, selective, full = (step(build(), mode)[1] for mode in ("none", "selective", "full"))
    for name in KEPT:
        assert selective[name] == none[name], name
    assert sum(full[name] for name in KEPT) > sum(none[name] for name in KEPT)
    assert selective.total() > none.total()


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_the_model_is_as_it_was_after_the_pass(mode: str) -> None:
    model = build()
    names, before = list(model.state_dict()), [dict(module.__dict__) for module in model.modules()]
    step(model, mode)
    assert list(model.state_dict()) == names
    assert [module.__dict__.keys() for module in model.modules()] == [each.keys() for each in before]


def test_a_pass_without_gradients_is_left_alone() -> None:
    model = build()
    with torch.no_grad(), passes(model, "full").training():
        assert not any("forward" in layer.__dict__ for layer in model.layers)


class Drifting(nn.Module):
    """A router whose forward reads what it writes."""

    experts, k, e_score_correction_bias = 4, 2, None
    seen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, width))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, hidden_TD: Tensor) -> Routing:
        self.seen += 1
        logits_TE = hidden_TD.float() @ self.weight.T * self.seen
        score_TE = logits_TE.sigmoid()
        expert_TK = score_TE.topk(2).indices
        return Routing(expert_TK, score_TE.gather(-1, expert_TK), logits_TE, score_TE)


def drifting() -> tuple[GlmMoe, list[Drifting]]:
    model = build()
    routers = [Drifting(32) for _ in model.layers[1:]]
    for layer, router in zip(model.layers[1:], routers, strict=True):
        mixture: Any = layer.mlp
        mixture.gate = router
    return model, routers


def test_a_layer_that_reads_the_buffer_it_writes_computes_the_same_again() -> None:
    (one, _), (two, routers) = drifting(), drifting()
    for _ in range(2):
        step(one, "none")
        step(two, "full")
    assert [float(router.seen) for router in routers] == [2, 2]
    for expected, found in zip(one.parameters(), two.parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        assert torch.equal(expected.grad, found.grad)


def test_a_model_that_does_not_name_its_layers_is_refused_by_name() -> None:
    train = TrainSettings.model_construct(activation_checkpointing="full")
    nameless: Any = nn.Linear(2, 2)
    with pytest.raises(ProblemError, match=r"train\.activation_checkpointing: Linear does not name its layers"):
        layers_of(nameless, train)
