"""A site whose product is computed elsewhere: layers use it in the place of the weight, which takes no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import ProductSite, Routing
from penstock.moe_core.layers.experts import Experts
from penstock.moe_core.layers.linear import Linear, Projection, joined
from penstock.moe_core.layers.site import sites_of


@dataclass
class Loop:
    """The dumb product, with a weight of its own."""

    weight: Tensor

    def __call__(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        if counts is None:
            return x @ self.weight.T
        parts = zip(x.split(counts.tolist()), self.weight, strict=True)
        return torch.cat([rows @ matrix.T for rows, matrix in parts])


def routing_to(experts: list[list[int]]) -> Routing:
    expert_TK = torch.tensor(experts, dtype=torch.int64).view(-1, 2)
    score_TE = torch.rand(len(experts), 4)
    return Routing(expert_TK, torch.rand(expert_TK.shape), score_TE, score_TE)


LayerT = TypeVar("LayerT", bound=nn.Module)


def drawn(layer: LayerT) -> LayerT:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def give_products(layer: nn.Module, *, only: str = "") -> None:
    for name, site in sites_of(nn.ModuleList([layer])).items():
        assert isinstance(site, ProductSite)
        if only in name:
            weights = site.layout.matrices(site.weight.detach().clone())
            site.multiply_by({matrix: Loop(weight) for matrix, weight in weights.items()})


@torch.no_grad()
def test_a_linear_layer_multiplies_by_the_product_and_adds_its_bias() -> None:
    layer, x = drawn(Linear(6, 5, bias=True)), torch.randn(2, 3, 6)
    expected = layer(x)
    give_products(layer)
    assert layer.weight.is_meta
    assert layer.weight.shape == (5, 6)
    torch.testing.assert_close(layer(x), expected)


@torch.no_grad()
def test_layers_that_are_joined_multiply_alike_where_some_or_all_have_products() -> None:
    layers, x = [drawn(Projection(6, rows, bias=True)) for rows in (5, 3, 4)], torch.randn(2, 3, 6)
    expected = joined(x, layers)
    for layer in (layers[1], layers[0], layers[2]):
        give_products(layer)
        torch.testing.assert_close(joined(x, layers), expected)


@torch.no_grad()
def test_experts_multiply_by_products_of_both_tensors_or_of_one() -> None:
    routing = routing_to([[0, 2], [2, 3], [3, 0], [2, 0]])
    for only in ("gate_up", "down", ""):
        experts, x = drawn(Experts(4, 8, 12)), torch.randn(4, 8)
        expected = experts(x, routing)
        give_products(experts, only=only)
        torch.testing.assert_close(experts(x, routing), expected)


@torch.no_grad()
def test_experts_with_products_take_no_tokens() -> None:
    experts = drawn(Experts(4, 8, 12))
    give_products(experts)
    assert experts(torch.zeros(0, 8), routing_to([])).shape == (0, 8)
