"""`model.plan` of a config: the request becomes the sizes of the architecture's schema, before it is validated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.schema import Schema, component_name
from penstock.moe_core.plan.request import PlanRequest
from penstock.moe_core.plan.search import Architecture, planned
from penstock.moe_core.plan.weights import Sizes

Fields: TypeAlias = Mapping[str, Any]
FACTORISED, TIED = "factorised-embedding", "tied-embeddings"


@dataclass(frozen=True, slots=True)
class Planner:
    """`architecture` tells the search what to count, from the request, the vocabulary, and the values of the other
    fields; `written` names sizes as the schema does."""

    architecture: Callable[[PlanRequest, int, Fields], Architecture]
    written: Callable[[Sizes], dict[str, Any]]
    sets: frozenset[str]
    """Fields that a plan sets."""


def planned_fields(planner: Planner, schema: type[Schema], fields: Fields, vocabulary: int | None) -> dict[str, Any]:
    """Replaces a model's `plan` by sizes; returns all fields of the model. `vocabulary` is the size of the tokenizer.
    Raises `ProblemError`, with paths below `model`, if no sizes meet the plan, and pydantic's `ValidationError` if the
    plan is invalid."""
    request = PlanRequest.model_validate(fields["plan"])
    if problems := list(_conflicts(planner, request, fields)):
        raise ProblemError(problems)
    vocabulary = request.vocabulary or vocabulary
    if request.vary == "vocabulary":
        vocabulary = 0
    elif vocabulary is None:
        what = "the plan needs the number of tokens of data.tokenizer.file"
        raise ProblemError(Problem("missing-field", what, "model.plan.vocabulary", "give it"))
    try:
        sizes = planned(request, architecture_of(planner, schema, request, vocabulary, fields)).sizes
    except ProblemError as error:
        [problem] = error.problems
        raise ProblemError(Problem(problem.code, problem.what, "model.plan", problem.fix)) from None
    others = {name: value for name, value in fields.items() if name != "plan"}
    return {**others, **planner.written(sizes), **_embedding(sizes, fields), **_router(request, fields)}


def architecture_of(
    planner: Planner, schema: type[Schema], request: PlanRequest, vocabulary: int, fields: Fields
) -> Architecture:
    """Describes a model with these other fields to the search."""
    return planner.architecture(request, vocabulary, _given(schema, fields))


def _given(schema: type[Schema], fields: Fields) -> dict[str, Any]:
    """Every value that is known without the plan."""
    defaults = {name: field.default for name, field in schema.model_fields.items()}
    return {**defaults, **schema.presets().get(fields.get("preset") or "", {}), **fields}


def _embedding(sizes: Sizes, fields: Fields) -> dict[str, Any]:
    """How embedding and head are one, and the factor."""
    sharing = list(fields.get("sharing") or ())
    tied = sizes.tied and TIED not in map(_short_name, sharing)
    factor = [] if sizes.rank is None else [{"use": FACTORISED, "rank": sizes.rank}]
    return {"vocab_size": sizes.vocabulary, "tie_word_embeddings": tied, "sharing": sharing + factor}


def _router(request: PlanRequest, fields: Fields) -> dict[str, Any]:
    if not request.experts or fields.get("router"):
        return {}
    return {"router": {"use": "sigmoid-topk", "k": request.experts_per_token}}


def _conflicts(planner: Planner, request: PlanRequest, fields: Fields) -> Iterator[Problem]:
    for name in sorted(planner.sets | {"vocab_size", "tie_word_embeddings"}):
        if fields.get(name) is not None:
            yield Problem("bad-value", f"model.plan sets {name}", f"model.{name}", "remove it, or the plan")
    if fields.get("pretrained") is not None:
        yield Problem("bad-value", "a pretrained model has its sizes already", "model.plan", "remove the plan")
    router = fields.get("router")
    k = router.get("k") if isinstance(router, dict) else None
    if request.experts and k is not None and k != request.experts_per_token:
        what = f"the router has k = {k}, but the plan {request.experts_per_token} experts a token"
        yield Problem("bad-value", what, "model.plan.experts_per_token", "make them equal")
    for index, each in enumerate(fields.get("sharing") or ()):
        name = _short_name(each)
        if name != TIED:
            fix = "write the sizes without a plan" if name != FACTORISED else "remove it, and write `vary: factor`"
            yield Problem("unsupported", f"a plan does not count what '{name}' shares", f"model.sharing.{index}", fix)
        elif not request.tied:
            yield Problem("bad-value", "the plan says tied: false", f"model.sharing.{index}", "remove one of them")


def _short_name(sharing: object) -> str:
    return (component_name(sharing) or "").rpartition(":")[2]
