"""Laws of weight sites: a change of the weight on its way to the product, with parameters of its own."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import nn

from penstock.hooks.contracts import LaidOut, ParameterLayout, ParameterRole, Sited, StoragePlan
from penstock.moe_core.frozen_base.model import FrozenBase

TOKENS = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(0))
EXPERT = "layers.1.mlp.experts.gate_up_proj"


class Gain(nn.Module):
    """A learned factor for each output."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((outputs, 1), 2.0))

    def forward(self, weight):
        return weight * self.gain


class LearnedStep(nn.Module):
    """Rounds to multiples of a step that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(0.05))

    def forward(self, weight):
        return (weight / self.step).round().detach() * self.step + (weight - weight.detach())


class Learned:
    """A quantizer with state; remembers what it was asked for."""

    roles = frozenset(ParameterRole)

    def __init__(self) -> None:
        self.asked = []

    def site(self, shape, role):
        self.asked.append((shape, role))
        return LearnedStep()

    def packed_bytes(self, shape):
        return 1


def loss(model):
    return model.next_token_loss(TOKENS[:, :-1], TOKENS[:, 1:]).loss


def test_every_weight_that_multiplies_has_a_site_under_its_name(make_model):
    model = make_model(attention_bias=True)
    assert isinstance(cast(object, model), Sited)
    sites, roles = model.weight_sites(), model.parameter_roles()
    weighty = {ParameterRole.MATRIX, ParameterRole.EXPERT, ParameterRole.EMBEDDING, ParameterRole.HEAD}
    assert sites.keys() == {name for name, role in roles.items() if role in weighty}
    assert all(site.role == roles[name] and site.weight is model.get_parameter(name) for name, site in sites.items())
    assert all(site.effective() is site.weight for site in sites.values())


def test_what_is_added_computes_trains_and_has_a_name_and_a_role(make_model):
    model, plain = make_model(), make_model()
    names = {}
    with torch.no_grad():
        for name, site in model.weight_sites().items():
            names[name] = site.add(Gain(site.weight.shape[-2])) + ".gain"
            plain.get_parameter(name).mul_(2)
    torch.testing.assert_close(loss(model), loss(plain))
    loss(model).backward()
    parameters, roles = dict(model.named_parameters()), model.parameter_roles()
    assert roles.keys() == parameters.keys()
    assert all(roles[name] == ParameterRole.NORM and parameters[name].grad.any() for name in names.values())


def test_the_checkpoint_layout_knows_nothing_of_what_is_added_unless_it_is_materialized(make_model):
    model, plain = make_model(), make_model()
    before = model.export_state()
    for site in model.weight_sites().values():
        site.add(Gain(site.weight.shape[-2]))
    assert {name: tensor.data_ptr() for name, tensor in model.export_state().items()} == {
        name: tensor.data_ptr() for name, tensor in before.items()
    }
    model.load_export_state(before)
    plain.load_export_state(model.export_state(materialize=True))
    torch.testing.assert_close(loss(plain), loss(model))


def test_sharing_comes_before_the_quantizer(make_model):
    model = make_model(quantizer=Learned())
    site = model.weight_sites()["layers.0.self_attn.q_proj.weight"]
    site.add(Gain(site.weight.shape[0]))
    step = site.quantizer_state()["whole.step"]
    assert torch.equal(site.effective(), (2 * site.weight / step).round() * step)


def test_a_quantizer_is_asked_for_one_matrix_at_a_time(make_model):
    quantizer = Learned()
    model = make_model(quantizer=quantizer)
    assert quantizer.asked.count(((6, 16, 32), ParameterRole.EXPERT)) == 2 * 2  # gate and up of two layers
    weight, effective = model.get_parameter(EXPERT), model.weight_sites()[EXPERT].effective()
    steps = model.weight_sites()[EXPERT].quantizer_state()
    assert steps.keys() == {"gate.step", "up.step"}
    for half, step in zip((slice(16), slice(16, 32)), steps.values(), strict=True):
        assert torch.equal(effective[:, half], (weight[:, half] / step).round() * step)


def test_the_state_of_a_quantizer_is_restored_bit_for_bit(make_model):
    model, other = make_model(quantizer=Learned()), make_model(quantizer=Learned())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".step"):
                parameter.uniform_(0.01, 0.1)
    for name, site in other.weight_sites().items():
        site.load_quantizer_state(model.weight_sites()[name].quantizer_state())
    assert torch.equal(loss(model), loss(other))


def test_a_quantizer_is_applied_to_its_roles_alone(make_model):
    model = make_model(quantizer=StoragePlan({ParameterRole.HEAD: Learned()}))
    quantized = {name for name, site in model.weight_sites().items() if site.quantizer_state()}
    assert quantized == {"lm_head.weight"}
    assert torch.equal(model.head_weight_VD, model.weight_sites()["lm_head.weight"].effective())
    hidden = torch.randn(1, 3, 32)
    torch.testing.assert_close(model.logits(hidden), hidden @ model.head_weight_VD.T)


def test_one_tensor_in_two_formats_is_refused(make_model):
    with pytest.raises(ValueError, match="one tensor"):
        make_model(quantizer=StoragePlan({ParameterRole.HEAD: Learned()}), tie_word_embeddings=True)


def test_the_layout_says_which_rows_are_which_matrix(make_model):
    model = make_model()
    assert isinstance(model, LaidOut)
    halves = ParameterLayout((("gate", 16), ("up", 16)))
    assert model.parameter_layout() == dict.fromkeys((EXPERT, EXPERT.replace(".1.", ".2.")), halves)


def test_adapters_have_sites_and_the_base_has_none(make_model, make_router):
    model = FrozenBase(
        make_model(first_k_dense_replace=3), layers=[1], make_router=make_router, experts=4, quantizer=Learned()
    )
    prefix = "adapters.1.experts."
    assert model.weight_sites().keys() == {f"{prefix}gate_up_proj", f"{prefix}down_proj"}
    assert model.parameter_layout().keys() == {f"{prefix}gate_up_proj"}
    assert model.parameter_roles().keys() == {name for name, _ in model.named_parameters()}
    assert not any("step" in name for name in model.trained_state())


def test_a_copied_model_has_sites_of_its_own(make_model):
    model = make_model(quantizer=Learned())
    other = copy.deepcopy(model)
    name = "layers.0.self_attn.q_proj.weight"
    assert other.weight_sites()[name].weight is other.get_parameter(name)
    assert torch.equal(loss(other), loss(model))
