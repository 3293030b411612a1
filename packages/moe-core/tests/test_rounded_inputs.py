"""Laws of a quantizer that rounds what its weights multiply: products read the rounded input, nothing else does."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole, StoragePlan
from penstock.hooks.problems import ProblemError
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.glm.model import GlmMoe

TOKENS = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(0))


class AsItIs(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight


class Halving:
    """Leaves weights as they are and halves inputs, which is easily told; remembers the shapes of those."""

    input_bits: int | None = 8

    def __init__(self, roles: Iterable[ParameterRole] = ParameterRole) -> None:
        self.roles = frozenset(roles)
        self.seen: list[tuple[int, ...]] = []

    def input(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x / 2

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> nn.Module:
        return AsItIs()

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return 1


def with_halved_weights(model: GlmMoe, roles: Iterable[ParameterRole]) -> GlmMoe:
    """W (x / 2) is (W / 2) x."""
    with torch.no_grad():
        for name, role in model.parameter_roles().items():
            if role in roles:
                model.get_parameter(name).div_(2)
    return model


@pytest.mark.parametrize("role", [ParameterRole.MATRIX, ParameterRole.EXPERT, ParameterRole.HEAD])
def test_every_product_of_the_role_reads_the_rounded_input_and_no_other_does(make_model, role: ParameterRole):
    model = make_model(quantizer=Halving([role]), attention_bias=True)
    expected = with_halved_weights(make_model(attention_bias=True), [role])
    found, plain = (each.next_token_loss(TOKENS[:, :-1], TOKENS[:, 1:]) for each in (model, expected))
    torch.testing.assert_close(found.loss, plain.loss)
    torch.testing.assert_close(model.logits(model(TOKENS).hidden_BSD), expected.logits(expected(TOKENS).hidden_BSD))


def test_the_router_reads_the_hidden_state_as_it_is(make_model):
    rounded, plain = make_model(quantizer=Halving([ParameterRole.EXPERT])), make_model()
    first = min(plain.routers)
    assert torch.equal(rounded(TOKENS).routings[first].logits_TE, plain(TOKENS).routings[first].logits_TE)


def test_an_input_is_rounded_once_for_all_matrices_that_read_it(make_model):
    quantizer = Halving()
    make_model(quantizer=quantizer)(TOKENS)
    # A dense layer: q with k and v, o, gate with up, down. One of experts: the same for its shared expert, and two
    # for the stack, of all tokens and of two rows a token.
    attention = [(2, 12, 32), (2, 12, 64)]
    dense = [*attention, (2, 12, 32), (2, 12, 48)]
    routed = [*attention, (24, 32), (48, 16), (2, 12, 32), (2, 12, 16)]
    assert quantizer.seen == [*dense, *routed, *routed]


def test_a_quantizer_that_leaves_inputs_alone_is_never_asked(make_model):
    quantizer = Halving()
    quantizer.input_bits = None
    make_model(quantizer=quantizer)(TOKENS)
    assert quantizer.seen == []


def test_a_head_that_rounds_its_input_is_no_plain_matrix(make_model):
    assert make_model(quantizer=Halving([ParameterRole.HEAD])).head_weight_VD is None
    assert make_model(quantizer=Halving([ParameterRole.EXPERT])).head_weight_VD is not None


def test_experts_in_a_frozen_base_round_their_inputs(make_model, make_router):
    quantizer = Halving([ParameterRole.EXPERT])
    base = make_model(first_k_dense_replace=3)
    model = FrozenBase(base, layers=[1], make_router=make_router, experts=4, quantizer=quantizer)
    model(TOKENS)
    assert quantizer.seen == [(24, 32), (48, 128)]
    with pytest.raises(ProblemError, match="no transformers class rounds activations to int8"):
        model.merged()


def test_a_model_that_rounds_inputs_has_no_published_layout(make_model):
    model = make_model(quantizer=StoragePlan({ParameterRole.MATRIX: Halving([ParameterRole.MATRIX])}))
    for publish in (model.published_config, model.published_state):
        with pytest.raises(ProblemError, match="no transformers class rounds activations to int8"):
            publish()
