"""What a model says of itself to a decoder; that a decoder computes it is tested where both are installed."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from penstock.hooks.contracts import ParameterRole, StoragePlan


class Rounding:
    """A quantizer that rounds inputs and leaves weights."""

    roles = frozenset({ParameterRole.EXPERT})
    input_bits = 8

    def site(self, shape, role):
        return nn.Identity()

    def packed_bytes(self, shape):
        return 0

    def input(self, x):
        return x.round()


def test_a_description_has_the_sizes_and_switches_in_values_of_json(make_model):
    model = make_model(scale=2.5, quantizer=StoragePlan({ParameterRole.EXPERT: Rounding()}), rope_theta=500)
    described = model.decoder_description()
    assert json.loads(json.dumps(described)) == described
    sizes = {"width": 32, "heads": 4, "key_value_heads": 2, "head_width": 16, "rotary_width": 8, "vocabulary": 96}
    assert sizes.items() <= described.items()
    assert (described["rope_theta"], described["epsilon"], described["tied"]) == (500.0, 1e-5, False)
    assert described["activations"] == {"matrix": 16, "expert": 8, "head": 16}
    assert described["layers"][0] == {"mlp": "dense", "hidden": 48}
    experts = {"mlp": "experts", "hidden": 16, "experts": 6, "k": 2, "score": "sigmoid", "normalize": True}
    assert described["layers"][2] == {**experts, "scale": 2.5, "temperature": 1.0, "groups": 1, "shared": 16}


def test_tied_and_dense_models_say_so(make_model):
    described = make_model(tie_word_embeddings=True, first_k_dense_replace=3, sub_norm=True).decoder_description()
    assert (described["tied"], described["sub_norm"]) == (True, True)
    assert {layer["mlp"] for layer in described["layers"]} == {"dense"}


def test_one_parameter_that_is_used_as_two_weights_is_not_tied(make_model):
    model = make_model(tie_word_embeddings=True)
    model.weight_sites()["lm_head.weight"].add(nn.Identity())
    assert not model.decoder_description()["tied"]


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("score_function", "sqrtsoftplus", "layer 1 is no matrix with sigmoid or softmax scores"),
        ("groups", 2, "layer 1 chooses among 2 groups"),
        ("capacity", 1.25, "layer 1 has a capacity"),
        ("inner_weight", nn.Parameter(torch.zeros(2, 2)), "layer 1 is no matrix"),
    ],
)
def test_a_router_that_no_decoder_has_is_named(make_model, attribute, value, reason):
    model = make_model()
    setattr(model.routers[1], attribute, value)
    described = model.decoder_description()
    assert list(described) == ["unsupported"]
    assert reason in described["unsupported"]
