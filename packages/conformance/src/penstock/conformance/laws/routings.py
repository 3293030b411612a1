# pyright: basic
"""What the laws about routing share: batches of hidden states, generators watched, and routings compared.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from penstock.conformance.law import Subject, expect
from penstock.hooks.contracts import AskingRouter, Routing

# Small, and with room for eight groups of two experts, whatever the settings that a check is given.
HIDDEN_SIZE, EXPERTS, TOKENS = 32, 16, 32

Made = TypeVar("Made")


def seeded(make: Callable[[], Made], seed: int = 0) -> Made:
    """What `make` returns under a seed of its own; the caller's generator stays where it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def router_of(
    subject: Subject, changes: Mapping[str, Any] | None = None, *, experts: int = EXPERTS, seed: int = 0
) -> Any:
    """The subject as a router in evaluation mode, with the parameters that a seed gives. One that asks for token ids
    is given some that follow from each row, where a law gives none."""
    router = seeded(lambda: subject.build(changes, hidden_size=HIDDEN_SIZE, experts=experts), seed).eval()
    if "token_T" in asks_of(router):
        router.register_forward_pre_hook(_with_ids, with_kwargs=True)
    return router


def asks_of(router: Any) -> frozenset[str]:
    """What a router is called with beside hidden states."""
    return router.asks if isinstance(router, AskingRouter) else frozenset()


def _with_ids(_router: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    (hidden_TD,) = arguments
    number_T = hidden_TD.detach().float().nan_to_num().clamp(-1000, 1000)[:, :4].mul(1000).round().long().sum(dim=-1)
    return arguments, {"token_T": number_T.remainder(997), **options}


def spread(tokens: int = TOKENS, seed: int = 1) -> Tensor:
    """Hidden states [T, D] of tokens that have nothing in common."""
    return torch.randn(tokens, HIDDEN_SIZE, generator=torch.Generator().manual_seed(seed))


def crowded(tokens: int = TOKENS) -> Tensor:
    """Hidden states [T, D] of tokens that nearly coincide, and so want the same few experts."""
    return 3 * spread(1, seed=2) + 0.3 * spread(tokens)


def kept_of(routing: Routing) -> Tensor:
    """Bool [T, K], the slots whose expert computes."""
    return torch.ones_like(routing.expert_TK, dtype=torch.bool) if routing.kept_TK is None else routing.kept_TK


def dropped_of(routing: Routing) -> Tensor:
    """Bool [T, K], the slots whose expert turned the token away."""
    return torch.zeros_like(routing.expert_TK, dtype=torch.bool) if routing.dropped_TK is None else routing.dropped_TK


def chosen_of(routing: Routing) -> Tensor:
    """Bool [T, E], the experts that a token chose, turned away or not."""
    return decision_of(routing) > 0


def decision_of(routing: Routing) -> Tensor:
    """Int64 [T, E]: 2 where the expert computes for the token, 1 where it turned it away, 0 elsewhere. It does not
    depend on the order of slots, which is free."""
    decision_TK = 2 * kept_of(routing).long() + dropped_of(routing).long()
    return torch.zeros_like(routing.score_TE, dtype=torch.int64).scatter_add(-1, routing.expert_TK, decision_TK)


def weight_of(routing: Routing) -> Tensor:
    """[T, E], the weight of each expert for each token, 0 where it has none."""
    return torch.zeros_like(routing.score_TE).scatter_add(-1, routing.expert_TK, routing.weight_TK)


def rows_of(routing: Routing, rows: slice | Tensor) -> Routing:
    """The routing of some of the tokens."""
    return over(routing, lambda tensor: tensor[rows])


def over(routing: Routing, change: Callable[[Tensor], Tensor]) -> Routing:
    """The routing with every tensor changed."""
    values = {each.name: getattr(routing, each.name) for each in fields(routing)}
    return Routing(**{name: value if value is None else change(value) for name, value in values.items()})


def expect_same_routing(first: Routing, second: Routing, when: str, tolerance: float = 1e-5) -> None:
    """Both send every token to the same experts with the same weights."""
    moved = int((decision_of(first) != decision_of(second)).any(dim=-1).sum())
    expect(moved == 0, f"{when}, {moved} of {first.expert_TK.shape[0]} tokens go elsewhere")
    error = float((weight_of(first) - weight_of(second)).detach().abs().max())
    expect(error <= tolerance, f"{when}, weights differ by up to {error:.3g}")


def expect_same_bits(first: Routing, second: Routing, when: str) -> None:
    """Both are the same in every bit of every tensor."""
    for name in (each.name for each in fields(first)):
        one, other = getattr(first, name), getattr(second, name)
        expect((one is None) == (other is None), f"{when}, {name} is None only once")
        expect(one is None or torch.equal(one, other), f"{when}, {name} differs")


def expect_valid(routing: Routing, experts: int, when: str) -> None:
    """Experts exist and are all different, weights are finite and not negative."""
    expert_TK, weight_TK = routing.expert_TK, routing.weight_TK
    expect(bool(((expert_TK >= 0) & (expert_TK < experts)).all()), f"{when}, an expert outside [0, {experts}) is named")
    used_TK = (kept_of(routing) | dropped_of(routing)).long()
    uses_TE = torch.zeros_like(routing.score_TE, dtype=torch.int64).scatter_add(-1, expert_TK, used_TK)
    expect(bool((uses_TE <= 1).all()), f"{when}, a token names an expert twice")
    expect(bool(weight_TK.isfinite().all()), f"{when}, a weight is not finite")
    expect(bool((weight_TK >= 0).all()), f"{when}, a weight is negative")


@contextmanager
def generators_left_alone(during: str) -> Iterator[None]:
    """Expects that the global generators of torch, Python and (where it is imported) numpy are not drawn from."""
    torch_state, others = torch.get_rng_state(), other_generators()
    yield
    expect(torch.equal(torch.get_rng_state(), torch_state), f"{during} draws from torch's global generator")
    expect_others_left_alone(others, during)


def expect_others_left_alone(before: tuple[Any, ...], during: str) -> None:
    """The generators of Python and numpy stand where they stood; `before` is from `other_generators`."""
    expect(other_generators() == before, f"{during} draws from the global generator of Python or numpy")


def other_generators() -> tuple[Any, ...]:
    """The states of the global generators of Python and, where it is imported, numpy."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return (random.getstate(),)
    _, key, *rest = numpy.random.get_state()
    return (random.getstate(), key.tobytes(), *rest)


def trained(router: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer changes."""
    return [parameter for parameter in router.parameters() if parameter.requires_grad]


def expect_shapes(routing: Routing, router: Any, tokens: int) -> None:
    """The routing has the shapes and types of the contract. Where it tells slots apart, there may be any number."""
    expect(isinstance(routing, Routing), f"the result is a {type(routing).__name__}")
    slots = routing.expert_TK.shape[-1]
    told = routing.kept_TK is not None
    expect(told or slots == router.k, f"{slots} experts a token, and k is {router.k}")
    wanted = {
        "expert_TK": ((tokens, slots), torch.int64),
        "weight_TK": ((tokens, slots), torch.float32),
        "logits_TE": ((tokens, router.experts), torch.float32),
        "score_TE": ((tokens, router.experts), torch.float32),
    }
    for name, (shape, dtype) in wanted.items():
        tensor = getattr(routing, name)
        seen = f"{name} of {tokens} tokens is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}"
        expect(tuple(tensor.shape) == shape and tensor.dtype == dtype, seen)
