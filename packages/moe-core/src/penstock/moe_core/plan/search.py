"""The shape that meets a budget: exact counts of all candidates near the request.

Widths, head sizes and hidden widths are enumerated; the one number that the request leaves free (depth, vocabulary or
rank) follows from the parameters. Attention is as wide as the model, with as many key-value heads as query heads, where
such a shape meets the request; else key-value heads are fewer; else attention is narrower or wider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, floor, log, sqrt
from typing import Any

from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.plan.request import PlanRequest
from penstock.moe_core.plan.weights import Sizes, Weights, table_share, total

PARAMETERS, EXPANSION = 0.005, 0.03
"""Largest relative errors of the parameters and of the expansion."""
SMALLEST_VOCABULARY = 300  # of a byte-level tokenizer
RANK_MULTIPLE = 8
WIDEST, DEEPEST = 2**17, 1000
"""The largest width and depth that are tried."""
_MOST_HIDDEN_WIDTHS = 7  # that are tried for one width: they are 1 % apart
_NEAR = 20.0  # tolerances: what is further off is no help
_VOCABULARIES = [base * 2**power for base in (512, 768) for power in range(10)]
_DEPTHS = 48
_SHARES = [each / 20 for each in range(1, 20)]
_WIDTHS, _DOUBLINGS = 64, 20
"""Vocabularies, depths up to this one, shares, and budgets (by the multiple of a width, or doubled and halved so often)
that are tried where no shape meets the request."""

Count = Callable[[Sizes], tuple[Weights, ...]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the planner knows of an architecture: how to count its weights, the sizes that the plan does not change, and
    whether attention may be narrower or wider than the model."""

    count: Count
    base: Sizes
    free_attention: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """A candidate, with what was reached. `worst` is its largest error in units of the tolerance."""

    sizes: Sizes
    parameters: int
    share: float
    glu: float
    worst: float


@dataclass(frozen=True, slots=True)
class Forced:
    """The sizes that the request implies before the planner rounds them."""

    width: float
    layers: float
    vocabulary: float
    rank: float | None

    def sentence(self, request: PlanRequest) -> str:
        share = f"{request.parameters:,} parameters at a share of {request.embedding_share:.0%}"
        width = f"width {self.width:,.0f}" if self.width >= 10 else f"width {self.width:.2g}"
        layers = f"{max(0.0, self.layers):,.1f}" if request.vary == "depth" else f"{self.layers:,.0f}"
        shape = f"{layers} layers of {width}"
        match request.vary:
            case "depth":
                return f"{share} and {self.vocabulary:,.0f} tokens mean {shape}"
            case "vocabulary":
                tokens = f"mean {self.vocabulary:,.0f} tokens" if self.vocabulary >= 1 else "leave no room for tokens"
                return f"{share} and {shape} {tokens}"
            case "factor":
                rank = self.rank or 0.0
                factor = f"mean a factor of rank {rank:,.0f}" if rank >= 1 else "leave no room for a factor"
                return f"{share}, {self.vocabulary:,.0f} tokens and {shape} {factor}"


def base_sizes(request: PlanRequest, vocabulary: int, **own: Any) -> Sizes:
    """Takes sizes from the request and from an architecture's `own`; the others are 0."""
    mixture = {
        "experts": request.experts,
        "experts_per_token": request.experts_per_token,
        "shared_experts": request.shared_experts,
        "dense_layers": request.dense_layers,
    }
    sizes = Sizes(vocabulary, 0, request.layers or 0, 0, 0, 0, 0, tied=request.tied, **own)
    return replace(sizes, **mixture) if request.experts else sizes


@cache
def forced(request: PlanRequest, architecture: Architecture) -> Forced:
    """Real numbers in place of whole ones, with attention as wide as the model."""
    sizes, budget, share = architecture.base, request.parameters, request.embedding_share
    tables = 1 if request.tied else 2
    if request.vary == "depth":
        width, begun = budget * share / (tables * sizes.vocabulary + sizes.positions), sizes.dense_layers
        dense, more = (_body(architecture, request, width, layers) for layers in (begun, begun + 1))
        return Forced(width, begun + (budget * (1 - share) - dense) / (more - dense), sizes.vocabulary, None)
    layers = request.layers or 1
    low, high = 1.0, 1e6
    while high / low > 1.0001:  # a body grows with its width
        width = sqrt(low * high)
        low, high = (
            (low, width) if _body(architecture, request, width, layers) > budget * (1 - share) else (width, high)
        )
    if request.vary == "vocabulary":
        return Forced(low, layers, (budget * share / low - sizes.positions) / tables, None)
    rank = (budget * share - sizes.positions * low) / (tables * sizes.vocabulary)
    return Forced(low, layers, sizes.vocabulary, rank)


def _body(architecture: Architecture, request: PlanRequest, width: float, layers: int) -> float:
    """Parameters that are in no table, of a model whose width need not be whole."""
    hidden = request.glu * width
    sizes = replace(
        architecture.base,
        vocabulary=0,
        positions=0,
        width=width,  # pyright: ignore[reportArgumentType]
        layers=layers,
        head_size=32,
        heads=width / 32,  # pyright: ignore[reportArgumentType]
        key_value_heads=width / 32,  # pyright: ignore[reportArgumentType]
        feed_forward=hidden,  # pyright: ignore[reportArgumentType]
        expert_width=hidden / _used(request),  # pyright: ignore[reportArgumentType]
    )
    return total(architecture.count(sizes))


@cache
def planned(request: PlanRequest, architecture: Architecture) -> Shape:
    """The shape with the smallest error; raises `ProblemError` with the nearest ones if no shape meets the request."""
    tried: list[Shape] = []
    if (found := _met(request, architecture, tried)) is not None:
        return found
    raise ProblemError(_no_shape(request, architecture, tried))


def _met(request: PlanRequest, architecture: Architecture, tried: list[Shape]) -> Shape | None:
    """The shape with the smallest error of those that meet the request; adds those that do not to `tried`."""
    for attention in (_whole, _fewer_keys, _other_widths) if architecture.free_attention else (_whole,):
        found = list(_candidates(request, architecture, attention))
        if met := [each for each in found if each.worst <= 1]:
            return min(met, key=lambda each: (_attention_error(each.sizes), *_order(each)))
        tried += found
    return None


def _order(shape: Shape) -> tuple[float, int, int]:
    return shape.worst, shape.sizes.head_size, shape.sizes.width


def _attention_error(sizes: Sizes) -> float:
    """How far attention is from four matrices [D, D], in tenths."""
    numbers = 2 * sizes.width * (sizes.heads + sizes.key_value_heads) * sizes.head_size
    return round(abs(numbers / (4 * sizes.width**2) - 1), 1)


def _candidates(request: PlanRequest, architecture: Architecture, attention: Attention) -> Iterator[Shape]:
    for width in _widths(request, architecture):
        for head_size in (request.head_size,) if request.head_size else (32, 64):
            for heads, key_value_heads in attention(width, head_size):
                for hidden, expert in _hidden_widths(request, width):
                    sizes = replace(
                        architecture.base,
                        width=width,
                        head_size=head_size,
                        heads=heads,
                        key_value_heads=key_value_heads,
                        feed_forward=hidden,
                        expert_width=expert,
                    )
                    for fitted in _FREE[request.vary](request, architecture.count, sizes):
                        yield _shape(request, architecture.count, fitted)


def _widths(request: PlanRequest, architecture: Architecture) -> list[int]:
    """Multiples next to the width that the request forces. Where the vocabulary is given, the width alone decides the
    share: those that cannot meet it are left out, unless all are."""
    width, unit = forced(request, architecture).width, request.width_multiple
    low, high = max(1, ceil(width / unit) - 2), floor(width / unit) + 2
    widths = [each * unit for each in range(low, min(high, WIDEST // unit) + 1)]
    if request.vary != "depth":
        return [each for each in widths if abs(each - width) < unit]
    share = request.embedding_share / width
    slack = request.share_tolerance + PARAMETERS
    return [each for each in widths if abs(share * each - request.embedding_share) <= slack] or widths


Attention = Callable[[int, int], Iterator[tuple[int, int]]]
"""Numbers of query heads and of key-value heads for a width and a head size."""


def _whole(width: int, head_size: int) -> Iterator[tuple[int, int]]:
    if width % head_size == 0:
        yield width // head_size, width // head_size


def _fewer_keys(width: int, head_size: int) -> Iterator[tuple[int, int]]:
    if width % head_size == 0:
        heads = width // head_size
        yield from ((heads, kept) for kept in range(1, heads) if heads % kept == 0)


def _other_widths(width: int, head_size: int) -> Iterator[tuple[int, int]]:
    near = round(width / head_size)
    for heads in range(max(1, near - 2), near + 3):
        if heads * head_size != width:
            yield from ((heads, heads // shared) for shared in (1, 2, 4) if heads % shared == 0)


def _hidden_widths(request: PlanRequest, width: int) -> list[tuple[int, int]]:
    """Hidden widths of dense layers within the tolerance, each with the nearest one of an expert."""
    unit, wanted = request.feed_forward_multiple, request.glu * width
    low, high = ceil(wanted * (1 - EXPANSION) / unit), floor(wanted * (1 + EXPANSION) / unit)
    within = range(low, high + 1) if low <= high else [max(1, round(wanted / unit))]
    step = ceil(len(within) / _MOST_HIDDEN_WIDTHS)
    widths = [each * unit for each in within[::step]]
    if not request.experts:
        return [(each, 0) for each in widths]
    return [(each, max(1, round(each / _used(request) / unit)) * unit) for each in widths]


def _used(request: PlanRequest) -> int:
    """Experts that a token uses, the shared ones included."""
    return request.experts_per_token + request.shared_experts


def _depths(request: PlanRequest, count: Count, sizes: Sizes) -> Iterator[Sizes]:
    begun = sizes.dense_layers
    none, one = (total(count(replace(sizes, layers=begun + more))) for more in (0, 1))
    layers = begun + (request.parameters - none) / (one - none)
    for each in {floor(layers), ceil(layers)}:
        if begun < each <= DEEPEST:
            yield replace(sizes, layers=each)


def _vocabularies(request: PlanRequest, count: Count, sizes: Sizes) -> Iterator[Sizes]:
    none, one = (total(count(replace(sizes, vocabulary=rows))) for rows in (0, 1))
    unit = request.vocabulary_multiple
    rows = (request.parameters - none) / (one - none) / unit
    for each in {floor(rows) * unit, ceil(rows) * unit}:
        if each >= SMALLEST_VOCABULARY:
            yield replace(sizes, vocabulary=each)


def _ranks(request: PlanRequest, count: Count, sizes: Sizes) -> Iterator[Sizes]:
    none, one = (total(count(replace(sizes, rank=rank))) for rank in (0, 1))
    rank = (request.parameters - none) / (one - none) / RANK_MULTIPLE
    for each in {floor(rank) * RANK_MULTIPLE, ceil(rank) * RANK_MULTIPLE}:
        if each > 0 and each * (sizes.vocabulary + sizes.width) < sizes.vocabulary * sizes.width:
            yield replace(sizes, rank=each)


_FREE = {"depth": _depths, "vocabulary": _vocabularies, "factor": _ranks}


def _shape(request: PlanRequest, count: Count, sizes: Sizes) -> Shape:
    weights = count(sizes)
    parameters, share = total(weights), table_share(weights)
    hidden = [sizes.feed_forward] if sizes.dense_layers or not sizes.experts else []
    hidden += [sizes.active_expert_width] if sizes.experts else []
    expansions = [each / sizes.width for each in hidden]
    glu = max(expansions, key=lambda each: abs(each - request.glu))
    worst = max(
        abs(parameters / request.parameters - 1) / PARAMETERS,
        abs(share - request.embedding_share) / request.share_tolerance,
        abs(glu / request.glu - 1) / EXPANSION,
    )
    return Shape(sizes, parameters, share, glu, worst)


def _no_shape(request: PlanRequest, architecture: Architecture, tried: Sequence[Shape]) -> Problem:
    what = f"no shape meets the budget: {forced(request, architecture).sentence(request)}"
    nearest: dict[tuple[int, int], Shape] = {}
    for each in sorted(tried, key=_order):
        nearest.setdefault((each.sizes.width, each.sizes.layers), each)
    shown = [_described(each, request) for each in list(nearest.values())[:3] if each.worst <= _NEAR]
    parts = [f"nearest: {'; '.join(shown)}"] if shown else []
    parts.append(_other(request, architecture) or "change the budget, the share or the expansion")
    return Problem("no-shape", what, fix="; or ".join(parts))


def _other(request: PlanRequest, architecture: Architecture) -> str | None:
    """The nearest request that a shape meets: another vocabulary where the depth is free or else another depth, then
    another share, then another budget."""
    for change, asked, changed in _changes(request, architecture):
        if (found := _met(asked, changed, [])) is not None:
            return f"{change}it is met by {_described(found, asked)}"
    return None


def _changes(request: PlanRequest, architecture: Architecture) -> Iterator[tuple[str, PlanRequest, Architecture]]:
    if request.vary == "depth":
        given = architecture.base.vocabulary
        for tokens in sorted(_VOCABULARIES, key=lambda each: abs(log(each / given))):
            with_tokens = replace(architecture, base=replace(architecture.base, vocabulary=tokens))
            yield f"with a vocabulary of {tokens:,} tokens ", request, with_tokens
    else:
        given, begun = request.layers or 1, request.dense_layers if request.experts else 0
        for layers in sorted(range(begun + 1, _DEPTHS + 1), key=lambda each: abs(log(each / given))):
            deeper = replace(architecture, base=replace(architecture.base, layers=layers))
            yield "", request.model_copy(update={"layers": layers}), deeper
    for share in sorted(_SHARES, key=lambda each: abs(each - request.embedding_share)):
        yield f"with a share of {share:.0%} ", request.model_copy(update={"embedding_share": share}), architecture
    for parameters in sorted(_budgets(request, architecture), key=lambda each: abs(log(each / request.parameters))):
        yield f"with {parameters:,} parameters ", request.model_copy(update={"parameters": parameters}), architecture


def _budgets(request: PlanRequest, architecture: Architecture) -> set[int]:
    """Budgets that may do: where the depth is free, those whose share of tables is a width that the planner tries."""
    if request.vary == "depth":
        rows = (1 if request.tied else 2) * architecture.base.vocabulary + architecture.base.positions
        widths = (request.width_multiple * each for each in range(1, _WIDTHS + 1))
        return {round(width * rows / request.embedding_share) for width in widths}
    budgets = (round(request.parameters * 2 ** (power / 2)) for power in range(-_DOUBLINGS * 2, _DOUBLINGS * 2 + 1))
    return {each for each in budgets if each > 0}


def _described(shape: Shape, request: PlanRequest) -> str:
    sizes = shape.sizes
    free = {"depth": "", "vocabulary": f", {sizes.vocabulary:,} tokens", "factor": f", rank {sizes.rank}"}[request.vary]
    error = shape.parameters / request.parameters - 1
    layers = f"{sizes.layers} layer{'s' if sizes.layers > 1 else ''} of width {sizes.width}{free}"
    return (
        f"{layers}: {shape.parameters:,} parameters ({error:+.1%}), share {shape.share:.1%}, expansion {shape.glu:.2f}"
    )
