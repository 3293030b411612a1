"""Laws of the way from full precision to the grid."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from penstock.hooks import Registry
from penstock.hooks.contracts import ParameterRole, Scheduled
from penstock.hooks.problems import ProblemError
from penstock.quant158.config import Warmup
from penstock.quant158.integers import Int8Quantizer
from penstock.quant158.learned import LearnedTernaryQuantizer
from penstock.quant158.ternary import TernaryQuantizer

SHAPES = ["linear", "sigmoid", "cosine"]
WEIGHT = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_share_rises_from_0_to_exactly_1_and_is_a_half_midway(shape: str):
    warmup = Warmup.model_validate({"tokens": 1000, "shape": shape})
    shares = [warmup.share(tokens) for tokens in range(0, 1001, 50)]
    assert shares[0] == pytest.approx(0, abs=1e-12)
    assert shares == sorted(shares)
    assert warmup.share(500) == pytest.approx(0.5)
    assert [warmup.share(tokens) for tokens in (1000, 1001, 10**9)] == [1.0, 1.0, 1.0]


def test_the_shapes_are_those_of_their_names():
    at = {shape: Warmup.model_validate({"tokens": 4, "shape": shape}).share(1) for shape in SHAPES}
    low, high = (1 / (1 + math.exp(-x)) for x in (-5, 5))
    assert at["linear"] == 0.25
    assert at["cosine"] == pytest.approx(math.sin(math.pi / 8) ** 2)
    assert at["sigmoid"] == pytest.approx((1 / (1 + math.exp(2.5)) - low) / (high - low))


@pytest.mark.parametrize("make", [TernaryQuantizer, LearnedTernaryQuantizer, Int8Quantizer])
def test_the_weight_goes_from_itself_to_the_grid_and_keeps_its_gradient(make: type[TernaryQuantizer]):
    on_grid = make().site((3, 40), ParameterRole.MATRIX)(WEIGHT)
    site = make(warmup=Warmup(tokens=100)).site((3, 40), ParameterRole.MATRIX)
    assert isinstance(site, Scheduled)
    assert torch.equal(site(WEIGHT), WEIGHT)
    site.set_tokens(25)
    torch.testing.assert_close(site(WEIGHT), 0.75 * WEIGHT + 0.25 * on_grid)
    weight = WEIGHT.clone().requires_grad_()
    site(weight).sum().backward()
    assert weight.grad is not None
    assert (weight.grad > 0.7).all()
    site.set_tokens(100)
    assert torch.equal(site(WEIGHT), on_grid)


def test_a_checkpoint_holds_how_far_the_warm_up_is():
    site, other = (TernaryQuantizer(warmup=Warmup(tokens=7)).site((3, 40), ParameterRole.MATRIX) for _ in range(2))
    assert isinstance(site, Scheduled)
    site.set_tokens(3)
    other.load_state_dict(site.state_dict())
    assert torch.equal(other(WEIGHT), site(WEIGHT))
    assert not torch.equal(other(WEIGHT), WEIGHT)


def test_nothing_is_packed_before_the_warm_up_ends():
    quantizer = TernaryQuantizer(warmup=Warmup(tokens=8))
    site = quantizer.site((3, 40), ParameterRole.MATRIX)
    assert isinstance(site, Scheduled)
    site.set_tokens(6)
    with pytest.raises(ProblemError, match=r"'up' is still warming up: 75% of it is on the grid.*until `warmup` ends"):
        quantizer.pack(WEIGHT, site, name="up")
    site.set_tokens(8)
    assert torch.equal(torch.from_numpy(quantizer.unpack(quantizer.pack(WEIGHT, site), (3, 40))), site(WEIGHT))


def test_a_site_without_warm_up_keeps_no_state():
    assert not TernaryQuantizer().site((3, 40), ParameterRole.MATRIX).state_dict()


def test_the_settings_reach_the_quantizer_from_a_config():
    written = {"use": "ternary", "warmup": {"tokens": 10, "shape": "cosine"}, "activations": "int8"}
    built = Registry.discover().build("quantizer", written)
    assert (built.warmup, built.input_bits) == (Warmup(tokens=10, shape="cosine"), 8)
    with pytest.raises(ValidationError, match="greater than 0"):
        Warmup(tokens=0)
