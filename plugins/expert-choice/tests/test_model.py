"""Inside `GlmMoe`: the model learns, its load is even, it is not causal, and it generates."""

from __future__ import annotations

import pytest
import torch
from penstock_expert_choice.router import ExpertChoice

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe
from penstock.routers.load import expert_load, load_metrics

EXPERTS = 4


@pytest.fixture
def model() -> GlmMoe:
    torch.manual_seed(0)
    config = GlmMoeConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=48,
        moe_intermediate_size=16,
        n_routed_experts=EXPERTS,
    )
    return GlmMoe(config, make_router=lambda layer, **sizes: ExpertChoice(**sizes))


def randomized(model: GlmMoe) -> GlmMoe:
    """Weights away from the start, where experts and attention contribute nothing yet."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 48, shape, generator=torch.Generator().manual_seed(0))


def test_it_learns_and_every_expert_computes_equally_many_tokens_at_every_step(model):
    token_BS = random_tokens(4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    gates = [router.weight.detach().clone() for router in model.routers.values()]
    losses = []
    for _ in range(30):
        output = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:])
        load = expert_load(output.routings)
        assert load.counts_LE.tolist() == [[64 * 2 // EXPERTS] * EXPERTS] * 2
        assert load.dropped_LE is None
        assert load_metrics(load.counts_LE)["max_violation_worst"] == 0
        optimizer.zero_grad()
        (output.loss / 64).backward()
        optimizer.step()
        losses.append(output.loss.item() / 64)
    assert losses[-1] < losses[0] / 2
    for router, gate in zip(model.routers.values(), gates, strict=True):
        assert not torch.equal(router.weight, gate)


def test_the_gate_is_trained_as_a_router(model):
    roles = model.parameter_roles()
    gates = {name for name, role in roles.items() if role == ParameterRole.ROUTER}
    assert gates == {"layers.1.mlp.gate.weight", "layers.2.mlp.gate.weight"}


def test_the_model_is_not_causal(model):
    randomized(model)
    token_BS = random_tokens(1, 24)
    other_BS = token_BS.clone()
    other_BS[0, -1] = (other_BS[0, -1] + 1) % 48
    one, other = model(token_BS), model(other_BS)
    assert not torch.allclose(one.hidden_BSD[0, :-1], other.hidden_BSD[0, :-1], atol=1e-3)


def test_other_sequences_of_the_batch_change_a_sequence(model):
    randomized(model)
    token_BS = random_tokens(4, 24)
    together, alone = model(token_BS).hidden_BSD[:1], model(token_BS[:1]).hidden_BSD
    assert not torch.allclose(together, alone, atol=1e-3)


def test_a_token_that_is_generated_alone_visits_every_expert(model):
    randomized(model)
    cache = model.new_cache(1, 9)
    model(random_tokens(1, 8), cache=cache)
    for routing in model(random_tokens(1, 1), cache=cache).routings.values():
        assert routing.expert_TK.tolist() == [list(range(EXPERTS))]
        assert routing.kept_TK.all()


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_it_generates(model, rows, use_cache):
    token_BS = random_tokens(rows, 5)
    grown_BS = randomized(model).generate(token_BS, tokens=6, use_cache=use_cache)
    assert grown_BS.shape == (rows, 11)
    assert torch.equal(grown_BS[:, :5], token_BS)


def test_a_checkpoint_round_trip_is_bit_equal_and_transformers_refuses_it(model):
    state = {name: tensor.clone() for name, tensor in randomized(model).export_state().items()}
    expected = model.logits(model(random_tokens(2, 9)).hidden_BSD)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_export_state(state)
    assert torch.equal(model.logits(model(random_tokens(2, 9)).hidden_BSD), expected)
    assert model.export_config()["model_type"] != "glm4_moe"  # transformers would compute a top-k instead
