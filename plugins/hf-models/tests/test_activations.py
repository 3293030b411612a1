"""Laws of the fused GELU: it is `gelu_new` of transformers, and the config that is exported still says so."""

from __future__ import annotations

import torch
from penstock_hf_models.build import hf_model
from torch import nn
from transformers.activations import NewGELUActivation


def test_values_and_gradients_are_those_of_gelu_new() -> None:
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64, requires_grad=True)
    found, expected = nn.GELU(approximate="tanh")(x), NewGELUActivation()(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_a_model_computes_with_it_and_is_exported_as_it_was() -> None:
    settings = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]}
    model = hf_model(model_type="gpt_neo", settings=settings, vocab_size=32)
    assert not any(isinstance(module, NewGELUActivation) for module in model.modules())
    assert any(isinstance(module, nn.GELU) for module in model.modules())
    assert model.export_config()["activation_function"] == "gelu_new"
