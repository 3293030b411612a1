"""Laws of a model that stays as it is while experts in its layers learn."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from penstock.hooks import Component, Registry
from penstock.hooks.config import Schema, parse_config, validate
from penstock.hooks.contracts import Inputs, ParameterRole, Routing
from penstock.hooks.discovery import Loaded, Origin, discover
from penstock.hooks.problems import ProblemError
from penstock.moe_core.frozen_base.config import FrozenBaseConfig
from penstock.moe_core.frozen_base.model import FrozenBase
from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.model import GlmMoe

VOCABULARY, WIDTH, LAYERS = 48, 16, 4
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
}


class Gate(nn.Module):
    """Softmax scores, the two highest, whose weights add up to `total`."""

    k, e_score_correction_bias = 2, None

    def __init__(self, hidden_size: int, experts: int, total: float = 1.0) -> None:
        super().__init__()
        self.experts, self.total = experts, total
        self.weight = nn.Parameter(torch.randn(experts, hidden_size))

    def forward(self, hidden_TD: Tensor) -> Routing:
        logits_TE = hidden_TD.float() @ self.weight.T
        score_TE = logits_TE.softmax(-1)
        weight_TK, expert_TK = score_TE.topk(self.k)
        weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True) * self.total
        return Routing(expert_TK, weight_TK, logits_TE, score_TE)


def gate(layer: int, *, hidden_size: int, experts: int) -> Gate:
    return Gate(hidden_size, experts)


class Gelu(nn.Module):
    """An MLP of another kind than a SwiGLU, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(nn.functional.gelu(self.inner(x)))


def redrawn(model: Any, seed: int = 1) -> Any:
    """Every parameter random, for those that start at zero would hide what depends on them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def dense(mlp: Callable[[], nn.Module] | None = None) -> Any:
    model = GlmMoe(GlmMoeConfig(**SIZES, first_k_dense_replace=LAYERS), make_router=gate)
    for layer in model.layers if mlp is not None else ():
        layer.mlp = mlp()  # pyright: ignore[reportOptionalCall]
    return redrawn(model)


def experts_of(base: Any, place: Literal["beside", "in_place"] = "beside", **options: Any) -> FrozenBase:
    torch.manual_seed(0)
    options = {"layers": [1, 3], "experts": 4, "make_router": gate, **options}
    return FrozenBase(base, place=place, **options)


def tokens(batch: int = 2, length: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, token_BS: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(token_BS).hidden_BSD)


def train(model: FrozenBase, steps: int = 6) -> list[float]:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.02)
    losses: list[float] = []
    for step in range(steps):
        token_BS = tokens(4, 13, seed=step % 2)
        loss = model.next_token_loss(token_BS[:, :-1], token_BS[:, 1:]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("mlp", [None, Gelu])
def test_beside_an_mlp_the_first_logits_are_the_bases_bits(mlp: type[nn.Module] | None) -> None:
    base = dense(mlp)
    before = logits(base, tokens())
    assert torch.equal(logits(experts_of(base), tokens()), before)


@pytest.mark.parametrize("mlp", [None, Gelu])
def test_in_place_of_an_mlp_the_first_logits_are_the_bases_but_for_rounding(mlp: type[nn.Module] | None) -> None:
    base = dense(mlp)
    before = logits(base, tokens())
    gap = (logits(experts_of(base, "in_place"), tokens()) - before).abs().max()
    assert gap < 2e-6 * before.abs().max()  # 1.8e-7 was measured, three roundings of fp32


@pytest.mark.parametrize("place", ["beside", "in_place"])
@pytest.mark.parametrize("mlp", [None, Gelu])
def test_training_lowers_the_loss_and_leaves_every_bit_of_the_base(
    place: Literal["beside", "in_place"], mlp: type[nn.Module] | None
) -> None:
    base = dense(mlp)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = experts_of(base, place)
    started = {name: tensor.clone() for name, tensor in model.trained_state().items()}
    fingerprint, losses = model.base_hash(), train(model, 12)
    assert losses[-2] < 0.995 * losses[0]
    assert losses[-1] < 0.995 * losses[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert model.base_hash() == fingerprint
    assert all(not torch.equal(tensor, started[name]) for name, tensor in model.trained_state().items())
    assert all(parameter.grad is None for parameter in base.parameters())


def test_only_routers_and_experts_train() -> None:
    model = experts_of(dense())
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training == {
        f"adapters.{layer}.{name}"
        for layer in (1, 3)
        for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj")
    }
    assert {model.parameter_roles()[name] for name in training} == {ParameterRole.ROUTER, ParameterRole.EXPERT}


def test_the_loss_and_its_gradients_are_those_of_whole_logits() -> None:
    model, token_BS, target_BS = redrawn(experts_of(dense())), tokens(), tokens(seed=3)
    output = model.next_token_loss(token_BS, target_BS)
    output.loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    all_logits = model.logits(model(token_BS).hidden_BSD)
    expected = nn.functional.cross_entropy(all_logits.flatten(0, 1), target_BS.flatten(), reduction="sum")
    expected.backward()
    torch.testing.assert_close(output.loss, expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_nothing_is_recorded_before_the_first_layer_with_experts() -> None:
    model, recorded = experts_of(dense()), []
    for layer in model.base.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: recorded.append(output[0].requires_grad))
    model(tokens())
    assert recorded == [False, True, True, True]


def attention_calls(model: FrozenBase) -> list[int]:
    """The layers whose attention was computed, as they come."""
    calls: list[int] = []
    for number, layer in enumerate(model.base.layers):
        layer.self_attn.register_forward_hook(lambda *_, number=number: calls.append(number))
    return calls


@pytest.mark.parametrize("place", ["beside", "in_place"])
def test_what_is_remembered_is_computed_once_and_no_bit_tells(place: Literal["beside", "in_place"]) -> None:
    model = redrawn(experts_of(dense(), place, layers=[2, 3]))
    batches = [(tokens(seed=seed), tokens(seed=seed + 9)) for seed in range(4)]

    def gradients() -> list[Tensor]:
        model.zero_grad()
        losses = [model.next_token_loss(*batch).loss for batch in batches]
        torch.stack(losses).sum().backward()
        return [torch.stack(losses), *(each.grad for each in model.parameters() if each.requires_grad)]

    expected, state = gradients(), torch.get_rng_state()
    calls = attention_calls(model)
    with model.remembering():
        with torch.no_grad():
            for token_BS, _ in batches:
                model(token_BS)
        assert calls == [0, 1, 2, 3] * 4
        assert all(torch.equal(*pair) for pair in zip(gradients(), expected, strict=True))
        assert calls[16:] == [2, 3] * 4
    model(batches[0][0])
    assert calls[24:] == [0, 1, 2, 3]
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_is_that_of_one_hidden_state_a_token_and_is_freed() -> None:
    def living() -> int:
        """How many tensors of the shape of hidden states there are."""
        gc.collect()
        return sum(type(each) is Tensor and each.shape == (2, 9, WIDTH) for each in gc.get_objects())

    model = experts_of(dense(), layers=[3])
    before = living()
    with torch.no_grad(), model.remembering():
        for seed in range(5):
            model(tokens(seed=seed))
            model(tokens(seed=seed))
        assert living() == before + 5
    assert living() == before


def test_nothing_is_remembered_where_more_than_tokens_decide_or_there_is_nothing_to_leave_out() -> None:
    def computed(model: FrozenBase, **known: Any) -> int:
        calls = attention_calls(model)
        with torch.no_grad(), model.remembering():
            for _ in range(2):
                model(Inputs(tokens(), **known))
        return len(calls)

    def cached(model: FrozenBase) -> int:
        calls = attention_calls(model)
        with torch.no_grad(), model.remembering():
            for _ in range(2):
                model(tokens(), cache=model.new_cache(2, 9))
        return len(calls)

    mixture = GlmMoe(
        GlmMoeConfig(**SIZES, n_routed_experts=4, moe_intermediate_size=8, first_k_dense_replace=2), make_router=gate
    )
    noisy = experts_of(dense())
    noisy.base.train()
    assert computed(experts_of(dense())) == 7
    assert computed(experts_of(dense()), real_BS=torch.ones(2, 9, dtype=torch.bool)) == 8
    assert cached(experts_of(dense())) == 8
    assert computed(experts_of(dense(), layers=[0, 3])) == 8
    assert computed(experts_of(mixture)) == 8
    assert computed(noisy) == 8


def test_outside_a_pass_the_base_is_itself() -> None:
    base = dense()
    before, model = logits(base, tokens()), redrawn(experts_of(base))
    assert torch.equal(logits(base, tokens()), logits(model.base, tokens()))
    redrawn(base)
    assert torch.equal(logits(base, tokens()), before)
    assert not torch.equal(logits(model, tokens()), before)


def test_generation_goes_through_the_experts() -> None:
    model = redrawn(experts_of(dense()), seed=5)
    text_BS = model.generate(tokens(1, 4), tokens=6, temperature=0.0)
    for position in range(4, 10):
        assert logits(model, text_BS[:, :position])[0, -1].argmax() == text_BS[0, position]


@pytest.mark.parametrize("place", ["beside", "in_place"])
def test_what_trained_and_the_base_make_the_model_again(place: Literal["beside", "in_place"]) -> None:
    model = experts_of(dense(), place)
    train(model)
    again = experts_of(dense(), place, layers=[3, 1])
    again.load_trained_state(model.trained_state())
    assert again.base_hash() == model.base_hash()
    assert torch.equal(logits(again, tokens()), logits(model, tokens()))
    with pytest.raises(ProblemError, match=r"3\.gate\.weight"):
        again.load_trained_state({name: each for name, each in model.trained_state().items() if name[0] == "1"})


def test_another_base_has_another_hash() -> None:
    other = dense()
    with torch.no_grad():
        other.layers[0].mlp.up_proj.weight[0, 0] += 1e-7
    assert experts_of(other).base_hash() != experts_of(dense()).base_hash()


@pytest.mark.parametrize(("place", "size"), [("beside", 12), ("in_place", None)])
def test_merged_with_its_base_it_computes_the_same_bits(place: Literal["beside", "in_place"], size: int | None) -> None:
    model = experts_of(dense(), place, layers=[2, 3], expert_size=size)
    train(model)
    whole: Any = model.merged()
    assert torch.equal(logits(whole, tokens()), logits(model, tokens()))
    assert whole.config.n_shared_experts == (2 if place == "beside" else 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"dense layers after the first one with experts \(2\)"),
        ({"layers": [2, 3], "expert_size": 16}, "width 24 next to experts of width 16"),
    ],
)
def test_what_no_exported_architecture_has_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        experts_of(dense(), **options).merged()


def test_a_base_of_experts_keeps_its_own() -> None:
    base = redrawn(
        GlmMoe(
            GlmMoeConfig(**SIZES, n_routed_experts=4, moe_intermediate_size=8, first_k_dense_replace=2),
            make_router=gate,
        )
    )
    before = logits(base, tokens())
    model = experts_of(base)
    assert torch.equal(logits(model, tokens()), before)
    assert model(tokens()).routings.keys() == {1, 3}
    with pytest.raises(ProblemError, match="MoE is not an MLP that can be copied"):
        experts_of(base, "in_place")


def test_layers_that_the_base_does_not_have_are_named() -> None:
    with pytest.raises(ProblemError, match="unknown layer 4, 7: the base has layers 0 to 3"):
        experts_of(dense(), layers=[1, 4, 7])


def test_a_base_without_mlps_is_refused() -> None:
    base = dense()
    for layer in base.layers:
        layer.mlp = None
    with pytest.raises(ProblemError, match="no list of layers that all have an MLP"):
        experts_of(base)


def test_copies_need_weights_that_add_up_to_one() -> None:
    def heavy(layer: int, *, hidden_size: int, experts: int) -> Gate:
        return Gate(hidden_size, experts, total=2.5)

    with pytest.raises(ProblemError, match=r"sum to between 2\.5"):
        experts_of(dense(), "in_place", make_router=heavy)
    experts_of(dense(), make_router=heavy)


class TopTwo(Schema):
    """Settings of a router that takes two experts a token."""

    k: int = 2


# Routers and sharing strategies are other packages'; of them only a description is needed here.
OTHERS = (
    Component("router", "top-two", "nowhere:Router", "Two experts per token", config="small_router:TopTwo"),
    Component("sharing", "same-everywhere", "nowhere:Sharing", "One tensor for all"),
)


@pytest.fixture(autouse=True)
def _small_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "small_router", sys.modules[__name__])


REGISTRY = Registry([*discover(), Loaded(Origin("acme", "1", "acme"), OTHERS)])
DENSE = f"{{use: glm-moe, {', '.join(f'{name}: {value}' for name, value in SIZES.items())}, first_k_dense_replace: 4}}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("layers: [1, 4]", "unknown layer 4: the base has layers 0 to 3"),
        ("layers: [1, 1]", "1 more than once"),
        ("layers: []", "layers"),
        ("layers: [1]\nexpert_size: 8\nplace: in_place", "have the MLP's size"),
        ("layers: [1]\nexperts: 1\nrouter: {use: top-two}", "k = 2 experts per token"),
        ("layers: [1]\nvocab_size: 49", "is 49, but the base has 48"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_built(line: str, said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        validate(FrozenBaseConfig, parse_config(f"base: {DENSE}\n{line}\n"), REGISTRY)


def test_what_belongs_outside_is_not_the_bases() -> None:
    base = DENSE.replace("use: glm-moe", "use: glm-moe, sharing: [{use: same-everywhere}]")
    with pytest.raises(ProblemError, match="sharing of the base"):
        validate(FrozenBaseConfig, parse_config(f"base: {base}\nlayers: [1]\n"), REGISTRY)
