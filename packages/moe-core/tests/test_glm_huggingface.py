"""Checkpoint names are the hub's, in both layouts, and nothing is lost or guessed."""

from __future__ import annotations

import pytest
import torch

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import ProblemError


def test_the_stacked_layout_and_extra_prediction_layers_are_read(make_model):
    model, other = make_model(), make_model()
    stacked = {
        name if name.startswith("lm_head") else f"model.{name}": tensor + 1
        for name, tensor in model.state_dict().items()
    }
    stacked["model.layers.3.eh_proj.weight"] = torch.zeros(1)  # multi-token prediction, beyond the model's three layers
    other.load_export_state(stacked)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor + 1, other.state_dict()[name]), name


def test_a_tied_head_is_stored_once_and_restored(make_model):
    model, other = make_model(tie_word_embeddings=True), make_model(tie_word_embeddings=True)
    state = {name: tensor.clone() + 1 for name, tensor in model.export_state().items()}
    assert "lm_head.weight" not in state
    assert model.export_config()["tie_word_embeddings"] is True
    other.load_export_state(state)
    assert other.lm_head.weight is other.embed_tokens.weight
    assert torch.equal(other.lm_head.weight, state["model.embed_tokens.weight"])


def test_a_tied_model_takes_its_own_head_and_refuses_another(make_model):
    model = make_model(tie_word_embeddings=True)
    state = {name: tensor.clone() + 1 for name, tensor in model.export_state().items()}
    model.load_export_state({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()})
    before = model.embed_tokens.weight.clone()
    for head in (before + 1, before.clone().index_fill_(0, torch.tensor([95]), 7.0)):
        with pytest.raises(ProblemError, match=r"ties the head .* 'lm_head.weight' differs from 'embed_tokens.weight'"):
            model.load_export_state({**state, "lm_head.weight": head})
    assert torch.equal(model.embed_tokens.weight, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}),
            "'norm.weight' holds torch.int8, not floating-point numbers",
        ),
        (lambda state: state.pop("model.norm.weight"), "'norm.weight' is missing"),
        (lambda state: state.pop("model.embed_tokens.weight"), "'embed_tokens.weight' is missing"),
        (
            lambda state: state.pop("model.layers.1.mlp.experts.2.up_proj.weight"),
            "layers.1.mlp.experts.2.up_proj.weight",
        ),
        (
            lambda state: state.update({"model.layers.1.mlp.experts.2.up_proj.weight": torch.zeros(3, 3)}),
            "layers.1.mlp.experts.2.up_proj.weight",
        ),
        (
            lambda state: state.update({"model.layers.1.mlp.experts.9.up_proj.weight": torch.zeros(16, 32)}),
            "7 instead of 6",
        ),
        (
            lambda state: state.update({"model.layers.0.mlp.experts.0.up_proj.weight": torch.zeros(16, 32)}),
            "no experts at layers.0.mlp.experts",
        ),
        (lambda state: state.update({"model.nrom.weight": torch.zeros(1)}), "did you mean 'norm.weight'"),
        (lambda state: state.update({"model.layers.x.weight": torch.zeros(1)}), "'layers.x.weight' is not part"),
        (lambda state: state.update({"model.norm.weight": torch.zeros(7)}), r"shape \[7\], but the model's has \[32\]"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_what_does_not_fit_is_named(make_model, change, message, tied):
    model = make_model(tie_word_embeddings=tied)
    state = model.export_state()
    change(state)
    with pytest.raises(ProblemError, match=message):
        model.load_export_state(state)


@pytest.mark.parametrize("change", [("score_function", "softmax"), ("temperature", 0.5), ("capacity", 1.25)])
def test_a_router_that_transformers_lacks_is_not_passed_off_as_glm(make_model, change):
    model = make_model()
    assert model.export_config()["model_type"] == "glm4_moe"
    setattr(model.routers[1], *change)
    assert model.export_config()["model_type"] != "glm4_moe"


class Halver:
    """A quantizer whose effect is plain to see."""

    roles = frozenset({ParameterRole.MATRIX, ParameterRole.EXPERT})

    def fake_quantize(self, weight):
        return weight * 0.5


def test_a_materialized_state_holds_what_the_layers_compute_with(make_model):
    model, plain = make_model(quantizer=Halver()), make_model()
    token_BS = torch.randint(0, 96, (1, 5))
    plain.load_export_state(model.export_state(materialize=True))
    torch.testing.assert_close(plain.logits(plain(token_BS).hidden_BSD), model.logits(model(token_BS).hidden_BSD))
    assert torch.equal(
        model.export_state()["model.layers.0.self_attn.q_proj.weight"], model.layers[0].self_attn.q_proj.weight
    )
