"""Laws of tables that are a product of two matrices, in every architecture that has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from penstock.hooks.contracts import FactorisableSite, Inputs, ParameterRole, StoragePlan
from penstock.moe_core.bert.model import bert
from penstock.moe_core.gpt.model import gpt
from penstock.moe_core.layers.embedding import Embedding
from penstock.moe_core.layers.factorised import factors
from penstock.moe_core.layers.head import Head
from penstock.moe_core.layers.site import sites_of

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(3, 9), st.integers(0, 2**31), st.data())
def test_the_factors_are_the_nearest_of_their_rank(rows: int, width: int, seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, width - 1))
    weight_VD = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    table_VR, direction_DR = factors(weight_VD, rank)
    error = torch.linalg.norm(weight_VD - table_VR @ direction_DR.T)
    beyond = torch.linalg.svdvals(weight_VD)[rank:]
    torch.testing.assert_close(error, torch.linalg.norm(beyond), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(direction_DR.T @ direction_DR, torch.eye(rank, dtype=torch.float64))


def test_a_rank_that_is_not_below_the_width_is_refused() -> None:
    for rank in (0, 4, 5):
        with pytest.raises(ValueError, match="not below the width 4"):
            factors(torch.randn(6, 4), rank)


def test_a_factorised_table_is_the_product_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    token_BS, target_T = torch.tensor([[1, 5, 2]]), torch.tensor([3, 1, 0])
    for made in (Embedding(12, 6), Head(6, 12)):
        nn.init.normal_(made.weight)
        made.factorise(3)
        whole_VD = made.whole()
        assert made.projection is not None
        assert whole_VD.shape == (12, 6)
        if isinstance(made, Embedding):
            loss, expected = made(token_BS).square().sum(), F.embedding(token_BS, whole_VD).square().sum()
        else:
            hidden_TD = torch.randn(3, 6)
            loss, _ = made(hidden_TD, target_T)
            expected = F.cross_entropy(hidden_TD @ whole_VD.T, target_T, reduction="sum")
        parameters = [made.weight, made.projection.weight]
        torch.testing.assert_close(loss, expected)
        for found, wanted in zip(
            torch.autograd.grad(loss, parameters, retain_graph=True),
            torch.autograd.grad(expected, parameters),
            strict=True,
        ):
            torch.testing.assert_close(found, wanted)


MODELS: dict[str, Any] = {
    "gpt": lambda **more: gpt(**SIZES, max_position_embeddings=32, **more),
    "bert": lambda **more: bert(**SIZES, max_position_embeddings=32, **more),
    "bert for tags": lambda **more: bert(
        **SIZES, max_position_embeddings=32, head={"task": "tags", "labels": 3}, **more
    ),
}


def factorised(model: Any, rank: int = 4) -> Any:
    for name, site in sites_of(model).items():
        if name in ("embed_tokens.weight", "embed_positions.weight", "lm_head.weight"):
            assert isinstance(site, FactorisableSite)
            assert site.factorise(rank, StoragePlan()) == {
                name.replace("weight", "projection.weight"): ParameterRole.MATRIX
            }
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_a_checkpoint_of_factors_is_restored_bit_for_bit(kind: str) -> None:
    torch.manual_seed(0)
    first, second = factorised(MODELS[kind]()), factorised(MODELS[kind]())
    assert first.export_config()["model_type"].startswith("penstock_")
    second.load_export_state(first.export_state())
    for (name, mine), (other, theirs) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_the_published_model_has_whole_tables_and_computes_the_same(kind: str) -> None:
    """Loaded by a model of the same architecture without factors, whose parity with transformers is shown elsewhere."""
    torch.manual_seed(0)
    model = factorised(MODELS[kind]())
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    whole = MODELS[kind](tie_word_embeddings=model.published_config()["tie_word_embeddings"])
    whole.load_export_state(model.published_state())
    inputs = Inputs(torch.arange(12).view(2, 6))
    for each, expected in zip(outputs(whole, inputs), outputs(model, inputs), strict=True):
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-5)
    assert "embedding_rank" not in model.published_config()


def outputs(model: Any, inputs: Inputs) -> list[torch.Tensor]:
    if hasattr(model, "task_logits"):
        return [model.task_logits(inputs)]
    return [model.logits(model(inputs).hidden_BSD)]
