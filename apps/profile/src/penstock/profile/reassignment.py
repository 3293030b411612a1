"""Other experts for some tokens of a trained model, to measure the value of its own choice.

Which tokens are changed, and what is drawn for them, depends only on their position in the text and a seed. They are
the same in every layer and for every strategy, and a larger fraction includes the tokens of a smaller one.

Shape suffixes: T tokens, S changed tokens, K experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor, nn

from penstock.hooks.contracts import LanguageModel, ReplaceableRouter, Router, Routing
from penstock.hooks.problems import Problem, ProblemError
from penstock.routers.keyed import gumbel, keys_of_integers, uniform
from penstock.routers.load import count_assignments

SEED = 0


@dataclass(frozen=True, slots=True)
class Request:
    """The tokens that need other experts: their scores, a key for random draws, and how many of them each expert can
    take before it has more than an even share of the batch."""

    score_SE: Tensor
    key_S: Tensor
    spare_E: Tensor
    k: int
    temperature: float


def balanced(request: Request) -> Tensor:
    """The experts with the largest sum of scores such that no expert exceeds its spare capacity.

    A linear program whose corners are integral, because it is a flow: one unit for each token and expert. If unchanged
    tokens leave too few experts for k different ones, the excess is as small as possible.
    """
    tokens, experts = request.score_SE.shape
    each_token = sparse.kron(sparse.eye_array(tokens), np.ones((1, experts)))
    each_expert = sparse.kron(np.ones((1, tokens)), sparse.eye_array(experts))
    score = request.score_SE.double().cpu().numpy().ravel()
    excess = np.full(experts, 1 + 2 * float(np.abs(score).max(initial=0)) * experts)  # costs more than any detour
    solution = linprog(
        np.concatenate([-score, excess]),
        A_ub=sparse.hstack([each_expert, -sparse.eye_array(experts)]).tocsr(),
        b_ub=request.spare_E.cpu().numpy(),
        A_eq=sparse.hstack([each_token, sparse.csr_array((tokens, experts))]).tocsr(),
        b_eq=np.full(tokens, request.k),
        bounds=[(0, 1)] * score.size + [(0, None)] * experts,
        method="highs-ds",
    )
    if not solution.success:
        raise RuntimeError(f"the linear program was not solved, although it always has a solution: {solution.message}")
    chosen_SE = torch.from_numpy(solution.x[: score.size].reshape(tokens, experts))
    return chosen_SE.topk(request.k, dim=-1).indices.to(request.score_SE.device)


def round_robin(request: Request) -> Tensor:
    """The next k experts in turn, whatever the token is."""
    tokens, experts = request.score_SE.shape
    slots = torch.arange(tokens * request.k, device=request.score_SE.device)
    return (slots % experts).view(tokens, request.k)


def at_random(request: Request) -> Tensor:
    """k experts drawn uniformly."""
    return uniform(request.key_S, request.score_SE.shape[1]).topk(request.k, dim=-1).indices


def by_temperature(request: Request) -> Tensor:
    """k experts drawn without replacement, in proportion to score^(1 / temperature)."""
    return _drawn(request, request.score_SE)


def top_k_filtered(request: Request) -> Tensor:
    """As `temperature`, but only from the 2k experts with the highest scores."""
    wide = min(2 * request.k, request.score_SE.shape[1])
    best = request.score_SE.topk(wide, dim=-1).indices
    kept_SE = torch.zeros_like(request.score_SE, dtype=torch.bool).scatter(-1, best, True)
    return _drawn(request, request.score_SE.masked_fill(~kept_SE, 0.0))


def _drawn(request: Request, score_SE: Tensor) -> Tensor:
    warm_SE = score_SE.log() / request.temperature
    return (warm_SE + gumbel(request.key_S, score_SE.shape[1])).topk(request.k, dim=-1).indices


STRATEGIES: Mapping[str, Callable[[Request], Tensor]] = {
    "balanced": balanced,
    "round-robin": round_robin,
    "random": at_random,
    "topk-filtered": top_k_filtered,
    "temperature": by_temperature,
}


def reassigned(
    routing: Routing, strategy: str, fraction: float, *, position_T: Tensor, seed: int, temperature: float = 1.0
) -> Routing:
    """The routing with about `fraction` of its tokens given to experts that the strategy chooses; unchanged if none.

    The weights of a changed token are its scores for the new experts, scaled to the same sum as before.
    """
    chance_T = uniform(keys_of_integers(position_T, SEED), 1).squeeze(-1)
    changed_T = chance_T < fraction
    if fraction == 0 or not changed_T.any():
        return routing
    tokens, k = routing.expert_TK.shape
    experts = routing.score_TE.shape[-1]
    taken_E = count_assignments([routing.expert_TK], experts=experts, mask_T=~changed_T)[0]
    score_SE = routing.score_TE[changed_T].float()
    spare_E = (-(-tokens * k // experts) - taken_E).clamp(min=0)
    key_S = keys_of_integers(position_T[changed_T], seed)
    new_SK = STRATEGIES[strategy](Request(score_SE.detach(), key_S, spare_E, k, temperature))
    weight_SK = score_SE.gather(-1, new_SK).clamp(min=torch.finfo(torch.float32).tiny)
    total_S1 = routing.weight_TK[changed_T].sum(dim=-1, keepdim=True)
    weight_SK = weight_SK / weight_SK.sum(dim=-1, keepdim=True) * total_S1
    expert_TK, weight_TK = routing.expert_TK.clone(), routing.weight_TK.clone()
    expert_TK[changed_T], weight_TK[changed_T] = new_SK, weight_SK.to(weight_TK.dtype)
    return replace(routing, expert_TK=expert_TK, weight_TK=weight_TK)


@dataclass(slots=True)
class Assignments:
    """What a modified model's layers computed: counts of each pass, and assignments differ from the router's."""

    counts: dict[int, list[Tensor]] = field(default_factory=dict)
    changed: int = 0
    total: int = 0

    def counts_SLE(self, layers: list[int]) -> np.ndarray:
        return torch.stack([torch.stack(self.counts[layer]) for layer in layers], dim=1).cpu().numpy()


@contextmanager
def modified(
    model: LanguageModel, strategy: str, fraction: float, *, temperature: float = 1.0
) -> Iterator[Assignments]:
    """Inside this context, the model's routers give about `fraction` of the tokens to experts that `strategy` chooses.
    A fraction of 0 computes the same bits. A pass raises `ProblemError` if a router drops tokens or does not return the
    experts of each token."""
    found = Assignments()
    with ExitStack() as stack:
        for layer, router in model.routers.items():
            change = _Change(found, layer, strategy, fraction, temperature)
            stack.enter_context(_replacing(router, change, layer))
        yield found


@contextmanager
def _replacing(router: Router, change: _Change, layer: int) -> Iterator[None]:
    """Inside this context, the model computes with `change(routing)` instead of its router's result."""
    if isinstance(router, ReplaceableRouter):
        with router.replacing(change):
            yield
        return
    if not isinstance(router, nn.Module):
        raise _unsupported(layer, "is not a module that can be replaced")
    handle = router.register_forward_hook(lambda _module, _arguments, routing: change(routing))
    try:
        yield
    finally:
        handle.remove()


class _Change:
    """Changes the choices of one layer's router. It counts tokens as it sees them to know their positions."""

    def __init__(self, found: Assignments, layer: int, strategy: str, fraction: float, temperature: float) -> None:
        self.found, self.layer = found, layer
        self.strategy, self.fraction, self.temperature = strategy, fraction, temperature
        self.seen = 0
        found.counts[layer] = []

    def __call__(self, routing: Any) -> Routing:
        if not isinstance(routing, Routing) or routing.kept_TK is not None:
            raise _unsupported(self.layer, "does not give every token the same number of experts")
        tokens = len(routing.expert_TK)
        position_T = torch.arange(self.seen, self.seen + tokens, device=routing.expert_TK.device)
        self.seen += tokens
        other = reassigned(
            routing,
            self.strategy,
            self.fraction,
            position_T=position_T,
            seed=self.layer + 1,
            temperature=self.temperature,
        )
        experts = routing.score_TE.shape[-1]
        self.found.counts[self.layer].append(count_assignments([other.expert_TK], experts=experts)[0])
        kept_TK = (routing.expert_TK.unsqueeze(-1) == other.expert_TK.unsqueeze(-2)).any(dim=-1)
        self.found.changed += int((~kept_TK).sum())
        self.found.total += kept_TK.numel()
        return other


def _unsupported(layer: int, what: str) -> ProblemError:
    what = f"the router of layer {layer} {what}"
    return ProblemError(Problem("unsupported", what, "--modify", "profile it without --modify"))
