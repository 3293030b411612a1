"""A fused tensor is stepped as the matrices that it holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cut_over_ranks import LAYOUTS

from penstock.hooks.contracts import ParameterLayout, ParameterRole
from penstock.optim_muon.muon import MuonAdamW


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
    stepped(fused, gradients, layouts={"fused": layout}, scaling=scaling)
    stepped(alone, [layout.matrices(each["fused"]) for each in gradients], scaling=scaling)
    for name, part in layout.matrices(fused["fused"].detach()).items():
        torch.testing.assert_close(part, alone[name].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_an_update_of_gate_does_not_depend_on_the_gradient_of_up(size):
    shape, layout = LAYOUTS["gate and up"]
    moved: list[torch.Tensor] = []
    for seed, factor in ((2, 1.0), (3, size)):
        fused = {"fused": torch.nn.Parameter(drawn(shape, 0))}
        gradient = drawn(shape, 1)
        gradient[:, 6:] = factor * drawn((3, 6, 8), seed)
        stepped(fused, [{"fused": gradient}], layouts={"fused": layout})
        moved.append((fused["fused"].detach() - drawn(shape, 0))[:, :6])
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-5, atol=1e-6)
    assert moved[0].square().mean().sqrt() > 0.2 * 0.02 / 2


def test_original_scale_is_that_of_the_matrix_that_multiplies_and_not_of_how_it_is_stored():
    """[32, 8] has the scale 2, its transpose 1."""
    gradient = drawn((8, 32), 1)
    stored, upright = torch.nn.Parameter(drawn((8, 32), 0)), torch.nn.Parameter(drawn((8, 32), 0).T.clone())
    layouts = {"fused": ParameterLayout(transposed=True)}
    stepped({"fused": stored}, [{"fused": gradient}], layouts=layouts, scaling="original")
    stepped({"fused": upright}, [{"fused": gradient.T}], scaling="original")
    torch.testing.assert_close(stored.detach().T, upright.detach(), rtol=1e-4, atol=1e-5)
    flat = torch.nn.Parameter(drawn((8, 32), 0))
    stepped({"fused": flat}, [{"fused": gradient}], scaling="original")
    assert not torch.allclose(flat, stored, rtol=1e-2)


@pytest.mark.parametrize("case", LAYOUTS)
def test_momentum_of_a_run_with_whole_tensors_is_loaded_bit_for_bit(case):
    shape, layout = LAYOUTS[case]

    def optimizer(parameter: torch.nn.Parameter, *, split_fused: bool) -> MuonAdamW:
        named = {ParameterRole.MATRIX: {"fused": parameter}}
        return MuonAdamW(named, layouts={"fused": layout}, split_fused=split_fused, momentum=0.5)

    before, after = (torch.nn.Parameter(drawn(shape, 0)) for _ in range(2))
    before.grad, after.grad = drawn(shape, 1), drawn(shape, 2)
    earlier, later = optimizer(before, split_fused=False), optimizer(after, split_fused=True)
    earlier.step()
    later.load_state_dict(earlier.state_dict())
    momentum = later.state[after]["momentum_buffer"]
    assert torch.equal(momentum, earlier.state[before]["momentum_buffer"])
    expected = momentum.lerp(after.grad, 0.5)
    later.step()
    torch.testing.assert_close(later.state[after]["momentum_buffer"], expected)


def test_with_the_setting_off_layouts_change_no_bit():
    shape, layout = LAYOUTS["gate and up"]
    told, untold = ({"fused": torch.nn.Parameter(drawn(shape, 0))} for _ in range(2))
    gradients = [{"fused": drawn(shape, seed)} for seed in (1, 2)]
    stepped(told, gradients, layouts={"fused": layout}, split_fused=False)
    stepped(untold, gradients)
    assert torch.equal(told["fused"], untold["fused"])
    split = {"fused": torch.nn.Parameter(drawn(shape, 0))}
    stepped(split, gradients, layouts={"fused": layout})
    assert not torch.equal(split["fused"], untold["fused"])
