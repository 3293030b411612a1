"""Padding holds no expert's place: texts of a padded batch are routed as the packed ones are, by every router."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.passes import Passes
from penstock.eval_suite.plan import Batch, Text
from penstock.eval_suite.rows import Row
from penstock.evaluate.evaluation import rows_together
from penstock.hooks import Registry
from penstock.hooks.config import ConfigDocument, validate
from penstock.hooks.contracts import Inputs, Likelihood, LikelihoodAnswer
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.run.config import RunConfig

SHORT, LONG = 8, 64
ROUTERS = {
    "sigmoid-topk": {"use": "sigmoid-topk", "capacity": 1.25},
    "sinkhorn": {"use": "sinkhorn"},
    "round-robin": {"use": "round-robin"},
    "hash": {"use": "hash"},
    "expert-choice": {"use": "expert-choice"},
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def model_with(registry: Registry, router: dict[str, Any]) -> GlmMoe:
    """One mixture layer alone sees what no router has changed before it."""
    torch.manual_seed(0)
    config = GlmMoeConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        moe_intermediate_size=16,
        n_routed_experts=4,
    )
    model = GlmMoe(config, make_router=lambda layer, **sizes: registry.build("router", router, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def texts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(1, 61, (SHORT,), generator=generator), torch.randint(1, 61, (LONG,), generator=generator)


@pytest.mark.parametrize("name", ROUTERS)
def test_a_padded_batch_is_routed_as_the_packed_texts_are(registry, name):
    model, (short, long) = model_with(registry, ROUTERS[name]), texts()
    token_BS = torch.zeros(2, LONG, dtype=torch.int64)
    token_BS[0, :SHORT], token_BS[1] = short, long
    real_BS = torch.arange(LONG) < torch.tensor([[SHORT], [LONG]])
    packed_BS = torch.cat((short, long))[None]
    document_BS = torch.tensor([0] * SHORT + [1] * LONG)[None]
    with torch.no_grad():
        padded = model(Inputs(token_BS, real_BS))
        packed = model(Inputs(packed_BS, document_BS=document_BS))
    torch.testing.assert_close(padded.hidden_BSD[real_BS], packed.hidden_BSD[0], rtol=1e-4, atol=1e-4)
    for layer, routing in padded.routings.items():
        real_T, expected = real_BS.flatten(), packed.routings[layer]
        assert routing.kept_TK is not None
        assert torch.equal(routing.expert_TK[real_T], expected.expert_TK)
        assert not routing.kept_TK[~real_T].any()
        places = expected.expert_TK.numel() if expected.kept_TK is None else int(expected.kept_TK.sum())
        assert int(routing.kept_TK.sum()) == places


def rows_of_unequal_length() -> list[Row]:
    generator = torch.Generator().manual_seed(5)
    lengths = (17, 9, 33, 5)
    tokens = [torch.randint(1, 61, (length,), generator=generator).numpy() for length in lengths]
    return [Row(Likelihood, token_S, len(token_S) - 4) for token_S in tokens]


@pytest.mark.parametrize("name", ROUTERS)
def test_an_evaluation_gives_a_text_the_likelihood_that_it_has_alone(registry, name):
    model, rows = model_with(registry, ROUTERS[name]).eval(), rows_of_unequal_length()
    tokenizer: Any = None
    by_key, passes = dict(zip("abcd", rows, strict=True)), Passes(model, tokenizer, capacity=LONG)
    texts = [Text(row.token_S[:-1], (key,), row.scored) for key, row in by_key.items()]
    together = passes.outputs(Batch(texts), by_key)
    for text in texts:
        (each,), (expected,) = (together[key] for key in text.keys), passes.outputs(Batch([text]), by_key).values()
        assert isinstance(each, LikelihoodAnswer)
        assert isinstance(expected, LikelihoodAnswer)
        assert each.nll == pytest.approx(expected.nll, rel=1e-5)
    stream = torch.cat([torch.from_numpy(row.token_S) for row in rows]).numpy()
    nats = [token_nll(model, stream, sequence_length=12, batch_size=size) for size in (1, 4)]
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)


def test_a_router_that_does_not_promise_to_choose_alike_in_any_batch_reads_texts_one_at_a_time(registry):
    def together(**model: Any) -> int:
        config = {"name": "x", "data": {"corpus": {"use": "python-stdlib"}}, "train": {"tokens": 1}, "model": model}
        document = ConfigDocument(config, {(): "here"}, "here")
        return rows_together(validate(RunConfig, document, registry).model)

    quickstart = {"use": "glm-moe", "preset": "quickstart"}
    assert together(**quickstart, router={"use": "sigmoid-topk"}) == 16
    assert together(**quickstart, router={"use": "expert-choice"}) == 1
    override = {"match": "layers.2.mlp", "router": {"use": "round-robin"}}
    assert together(**quickstart, router={"use": "sigmoid-topk"}, overrides=[override]) == 1
    base = {**quickstart, "first_k_dense_replace": 1, "router": {"use": "round-robin"}}
    assert together(use="frozen-base", base=base, layers=[0], router={"use": "softmax-topk"}) == 1
