"""A fused tensor is stepped as the matrices that it holds, where `split_fused` asks for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from penstock.hooks.contracts import ParameterLayout, ParameterRole
from penstock.optim_muon.muon import MuonAdamW

LAYOUTS = {
    "gate and up": ((3, 12, 8), ParameterLayout((("gate", 6), ("up", 6)))),
    "query, key and value": ((16, 8), ParameterLayout((("q", 8), ("k", 4), ("v", 4)))),
    "by head": ((24, 8), ParameterLayout((("q", 4), ("k", 2), ("v", 2)), blocks=3)),
    "every other row": ((2, 12, 8), ParameterLayout((("gate", 1), ("up", 1)), blocks=6)),
    "transposed": ((8, 12), ParameterLayout((("q", 6), ("k", 6)), transposed=True)),
    "a transposed stack": ((2, 8, 12), ParameterLayout((("gate", 1), ("up", 1)), blocks=6, transposed=True)),
}


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stepped(named: dict[str, torch.nn.Parameter], gradients: list[dict[str, torch.Tensor]], **settings: Any) -> None:
    optimizer = MuonAdamW({ParameterRole.MATRIX: named}, weight_decay=0.1, iteration_dtype="float32", **settings)
    for gradient in gradients:
        for name, parameter in named.items():
            parameter.grad = gradient[name].clone()
        optimizer.step()


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("scaling", ["match_rms", "original"])
def test_a_fused_tensor_is_stepped_as_its_matrices_are_alone(case, scaling):
    shape, layout = LAYOUTS[case]
    fused = {"fused": torch.nn.Parameter(drawn(shape, 0)), "plain": torch.nn.Parameter(drawn((8, 8), 9))}
    gradients = [{"fused": drawn(shape, seed), "plain": drawn((8, 8), seed + 9)} for seed in (1, 2, 3)]
    alone = {name: torch.nn.Parameter(part.clone()) for name, part in layout.matrices(fused["fused"].detach()).items()}
    stepped(fused, gradients, layouts={"fused": layout}, split_fused=True, scaling=scaling)
    stepped(alone, [layout.matrices(each["fused"]) for each in gradients], scaling=scaling)
    for name, part in layout.matrices(fused["fused"].detach()).items():
        torch.testing.assert_close(part, alone[name].detach(), rtol=1e-4, atol=1e-5)


def test_without_the_setting_layouts_change_no_bit():
    shape, layout = LAYOUTS["gate and up"]
    told, untold = ({"fused": torch.nn.Parameter(drawn(shape, 0))} for _ in range(2))
    gradients = [{"fused": drawn(shape, seed)} for seed in (1, 2)]
    stepped(told, gradients, layouts={"fused": layout})
    stepped(untold, gradients)
    assert torch.equal(told["fused"], untold["fused"])
    split = {"fused": torch.nn.Parameter(drawn(shape, 0))}
    stepped(split, gradients, layouts={"fused": layout}, split_fused=True)
    assert not torch.equal(split["fused"], untold["fused"])
