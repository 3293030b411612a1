"""Laws of layers that are left out where a pass had the same tokens before: no bit may tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penstock.moe_core.frozen_base.prefix_cache import Prefix

WIDTH, FROZEN, LAYERS = 8, 3, 5


class Layer(nn.Module):
    """Adds to its input what a matrix makes of it, and of what else it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return x + self.linear(x).tanh() + (more if isinstance(more, Tensor) else 0)


class Pair(Layer):
    """Returns weights beside its output."""

    def forward(self, x: Tensor, more: Any = None) -> Any:
        return super().forward(x, more), x.softmax(-1)


class Sharing(Layer):
    """Leaves something for the layers after it."""

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        out = super().forward(x, sum(more))
        more.append(out.mean())
        return out


class Writing(Layer):
    """Changes its input."""

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return x.mul_(1.5).add(self.linear(x))


def chain(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, (torch.ones(WIDTH), None))
    return x


def of_pairs(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)[0]
    return x


def handing_weights_on(layers: Any, x: Tensor) -> Tensor:
    weights = None
    for layer in layers:
        x, weights = layer(x, weights)
    return x


def with_a_skip(layers: Any, x: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    for layer in layers:
        x = layer(x, outputs[1] if len(outputs) == LAYERS - 1 else None)
        outputs.append(x)
    return x


def that_uses_one_again(layers: Any, x: Tensor) -> Tensor:
    first = x = layers[0](x)
    for layer in layers[1:]:
        x = layer(x)
    return x + first


def that_ends_before(layers: Any, x: Tensor) -> Tensor:
    return that_uses_one_again(layers[:FROZEN], x)


def with_one_called_twice_and_one_never(layers: Any, x: Tensor) -> Tensor:
    return chain([layers[0], layers[0], layers[1], *layers[FROZEN:]], x)


def with_something_between(layers: Any, x: Tensor) -> Tensor:
    begin = x
    for layer in layers:
        x = layer(0.9 * x + 0.1 * begin)
    return x


def in_a_loop(layers: Any, x: Tensor) -> Tensor:
    return chain(layers, chain(layers, x))


def backwards(layers: Any, x: Tensor) -> Tensor:
    return chain(layers[::-1], x)


def with_a_list(layers: Any, x: Tensor) -> Tensor:
    shared: list[Tensor] = []
    for layer in layers:
        x = layer(x, shared)
    return x


def with_changes_between(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x).mul_(0.5)
    return x


PASSES: list[tuple[type[Layer], Callable[..., Tensor], bool]] = [
    (Layer, chain, True),
    (Pair, of_pairs, True),
    (Writing, chain, True),
    (Layer, with_changes_between, True),
    (Pair, handing_weights_on, False),
    (Layer, with_a_skip, False),
    (Layer, that_uses_one_again, False),
    (Layer, that_ends_before, False),
    (Layer, with_one_called_twice_and_one_never, False),
    (Layer, with_something_between, False),
    (Layer, in_a_loop, False),
    (Layer, backwards, False),
    (Sharing, with_a_list, False),
]


def stack(kind: type[Layer] = Layer) -> tuple[Any, nn.Embedding, list[int]]:
    """Layers, an embedding, and the list of the layers whose matrix was used."""
    torch.manual_seed(0)
    layers: Any = nn.ModuleList(kind() for _ in range(LAYERS))
    embedding, used = nn.Embedding(20, WIDTH), list[int]()
    for number, layer in enumerate(layers):
        layer.linear.register_forward_hook(lambda *_, number=number: used.append(number))
    return layers, embedding, used


@pytest.mark.parametrize(("kind", "run", "left_out"), PASSES, ids=lambda each: getattr(each, "__name__", str(each)))
def test_every_pass_has_its_bits_and_only_a_chain_is_left_out(
    kind: type[Layer], run: Callable[..., Tensor], left_out: bool
) -> None:
    layers, embedding, used = stack(kind)
    batches = torch.arange(18).view(3, 2, 3)
    with torch.no_grad():
        expected = [run(layers, embedding(token_BS)) for token_BS in batches]
        prefix = Prefix(layers[:FROZEN], layers[FROZEN])
        for _ in range(3):
            used.clear()
            for token_BS, output in zip(batches, expected, strict=True):
                with prefix.over(token_BS):
                    assert torch.equal(run(layers, embedding(token_BS)), output)
    assert (used == [3, 4] * 3) == left_out
    assert all("forward" not in layer.__dict__ for layer in layers)


def test_what_no_watching_can_show_gives_no_wrong_number() -> None:
    def with_means(layers: Any, x: Tensor) -> Tensor:
        means: list[Tensor] = []
        for layer in layers:
            x = layer(x)
            means.append(x.mean())
        return x + sum(means)

    layers, embedding, _ = stack()
    prefix, token_BS = Prefix(layers[:FROZEN], layers[FROZEN]), torch.tensor([[1, 2, 3]])
    outputs: list[Tensor] = []
    for _ in range(2):
        with torch.no_grad(), prefix.over(token_BS):
            outputs.append(with_means(layers, embedding(token_BS)))
    assert outputs[0].isfinite().all()
    assert outputs[1].isnan().all()


def test_tokens_are_told_apart_by_what_they_are_and_not_by_where_they_lie() -> None:
    layers, embedding, used = stack()
    prefix, token_BS = Prefix(layers[:FROZEN], layers[FROZEN]), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        for tokens, computed in (([1, 2, 3], LAYERS), ([1, 2, 4], LAYERS), ([1, 2, 3], 2), ([1, 2, 4], 2)):
            token_BS.copy_(torch.tensor([tokens]))  # as a loader does that has one place for all
            used.clear()
            with prefix.over(token_BS):
                output = chain(layers, embedding(token_BS))
            assert len(used) == computed
            assert torch.equal(output, chain(layers, embedding(token_BS)))
        used.clear()
        with prefix.over(token_BS.view(3, 1)):
            chain(layers, embedding(token_BS.view(3, 1)))
        assert len(used) == LAYERS


def test_a_pass_that_fails_leaves_nothing() -> None:
    layers, embedding, used = stack()
    prefix, token_BS = Prefix(layers[:FROZEN], layers[FROZEN]), torch.tensor([[1, 2, 3]])
    handle = layers[4].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), prefix.over(token_BS):
        chain(layers, embedding(token_BS))
    handle.remove()
    used.clear()
    with prefix.over(token_BS):
        chain(layers, embedding(token_BS))
    assert used == list(range(LAYERS))
    assert all("forward" not in layer.__dict__ for layer in layers)
