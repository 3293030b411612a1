"""`penstock plan`: the shape of a model for a budget of parameters. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.hooks.registry import Registry

if TYPE_CHECKING:
    from penstock.moe_core.plan.weights import Weights


@click.command()
@click.option("--use", default="glm-moe", show_default=True, help="Architecture: glm-moe or gpt.")
@click.option("--parameters", required=True, metavar="N", help="Parameters that the model stores, such as 10M.")
@click.option("--embedding-share", required=True, type=float, help="Share of embedding and head, such as 0.35.")
@click.option("--glu", type=float, help="Hidden width of the feed-forward network over the model's; default 2.66.")
@click.option("--vocabulary", type=int, metavar="TOKENS", help="Tokens; default 4,096 unless they vary.")
@click.option("--vary", type=click.Choice(["depth", "vocabulary", "factor"]), help="What gives way; default depth.")
@click.option("--layers", type=int, help="Number of layers, where the vocabulary or the factor varies.")
@click.option("--untied", is_flag=True, help="Embedding and head are two matrices.")
@click.option("--head-size", type=click.Choice(["32", "64"]), help="Width of a head; default: both are tried.")
@click.option("--width-multiple", type=int, help="Width is a multiple of it; default 32.")
@click.option("--feed-forward-multiple", type=int, help="Hidden widths are multiples of it; default 8.")
@click.option("--share-tolerance", type=float, help="Largest distance from the share; default 0.01, one point.")
@click.option("--experts", type=int, help="Experts of a layer; default 0, a dense model.")
@click.option("--experts-per-token", type=int, help="Experts that a token uses; default 2.")
@click.option("--shared-experts", type=int, help="Experts that every token uses; default 1.")
@click.option("--dense-layers", type=int, help="Dense layers before those with experts; default 1.")
@click.option("--sequence-length", type=click.IntRange(min=1), default=256, show_default=True, help="For FLOPs.")
@output.json_option
@click.pass_obj
def plan(
    registry: Registry,
    use: str,
    vocabulary: int | None,
    untied: bool,
    head_size: str | None,
    sequence_length: int,
    as_json: bool,
    **options: Any,
) -> dict[str, Any]:
    """Find the shape that has a budget of parameters and shares it out as asked.

    Parameters are met within 0.5 %, the share within a point and the expansion within 3 %. Counts are exact. In a
    config, `model: {plan: {...}}` takes the same settings.
    """
    given = {name: value for name, value in options.items() if value is not None}
    given |= {"tied": False} if untied else {}
    given |= {"head_size": int(head_size)} if head_size else {}
    given |= {"vocabulary": vocabulary} if vocabulary is not None else {}
    result = _planned(registry, use, given, sequence_length)
    output.print_result(result, as_json, lambda: _text(result))
    return result


def _planned(registry: Registry, use: str, given: dict[str, Any], sequence_length: int) -> dict[str, Any]:
    from penstock.hooks.config import ConfigDocument, validate
    from penstock.hooks.problems import Problem, ProblemError
    from penstock.hooks.schema import schema_of
    from penstock.moe_core.glm.planning import PLANNER as GLM
    from penstock.moe_core.gpt.planning import PLANNER as GPT
    from penstock.moe_core.plan import search
    from penstock.moe_core.plan import weights as counted
    from penstock.moe_core.plan.config import architecture_of
    from penstock.moe_core.plan.request import PlanRequest

    planners = {"glm-moe": GLM, "gpt": GPT}
    entry = registry.find(("architecture",), use)
    if entry.component.name not in planners:
        raise ProblemError(Problem("unsupported", f"'{use}' cannot be planned", "--use", "use glm-moe or gpt"))
    request = validate(PlanRequest, ConfigDocument(given, {}, "penstock plan"), registry)
    planner, schema = planners[entry.component.name], schema_of(entry)
    tokens = 0 if request.vary == "vocabulary" else request.vocabulary or 4096
    architecture = architecture_of(planner, schema, request, tokens, {})
    shape = search.planned(request, architecture)
    weights = architecture.count(shape.sizes)
    forward = counted.forward_flops(weights, shape.sizes, sequence_length)
    rank = {"rank": shape.sizes.rank} if shape.sizes.rank else {}
    return {
        "requested": {
            "parameters": request.parameters,
            "embedding_share": request.embedding_share,
            "glu": request.glu,
        },
        "reached": {"parameters": shape.parameters, "embedding_share": shape.share, "glu": shape.glu},
        "forced": search.forced(request, architecture).sentence(request),
        "sizes": {"vocab_size": shape.sizes.vocabulary, **rank, **planner.written(shape.sizes)},
        "by_role": counted.by_role(weights),
        "active_parameters": counted.active(weights),
        "sequence_length": sequence_length,
        "forward_flops_per_token": forward,
        "training_flops_per_token": counted.training_flops(forward),
        "bytes": {name: sum(_bytes(each, name) for each in weights) for name in ("fp32", "bf16", "int8", "ternary")},
    }


def _bytes(weights: Weights, name: str) -> int:
    """Bytes of tensors in a format. `int8` is of matrices, experts, embedding and head; `ternary` of matrices and
    experts, with embedding and head as int8. What these leave out stays fp32."""
    from penstock.hooks.contracts import ParameterRole
    from penstock.quant158.stored import packed_bytes

    if name in ("fp32", "bf16"):
        return weights.parameters * (4 if name == "fp32" else 2)
    matrices, tables = (ParameterRole.MATRIX, ParameterRole.EXPERT), (ParameterRole.EMBEDDING, ParameterRole.HEAD)
    if weights.role in tables or (name == "int8" and weights.role in matrices):
        return weights.copies * packed_bytes("int8-rows", weights.shape)
    if weights.role in matrices:
        return weights.copies * packed_bytes("ternary-base3-tensor", weights.shape)
    return 4 * weights.parameters


def _text(result: dict[str, Any]) -> str:
    requested, reached = result["requested"], result["reached"]
    rows = [
        ("parameters", f"{requested['parameters']:,}", f"{reached['parameters']:,}"),
        ("embedding share", f"{requested['embedding_share']:.1%}", f"{reached['embedding_share']:.1%}"),
        ("expansion", f"{requested['glu']:.2f}", f"{reached['glu']:.2f}"),
    ]
    sizes = [(name, f"{value:,}") for name, value in result["sizes"].items()]
    roles = [(role, f"{count:,}") for role, count in result["by_role"].items()]
    length = result["sequence_length"]
    costs = [
        ("active parameters", f"{result['active_parameters']:,}"),
        (f"FLOPs a token, forward, {length:,} tokens", f"{result['forward_flops_per_token']:,}"),
        ("FLOPs a token, training", f"{result['training_flops_per_token']:,}"),
        *((f"bytes as {name}", f"{count:,}") for name, count in result["bytes"].items()),
    ]
    return "\n\n".join(
        [
            output.table(("", "requested", "reached"), rows),
            result["forced"],
            output.table(("size", ""), sizes),
            output.table(("role", "parameters"), roles),
            output.table(("cost", ""), costs),
        ]
    )
