"""`model.plan`: a config that asks for a budget of parameters gets the sizes of a shape that meets it.

The sizes take the place of the plan before the config is validated, so `config.resolved.yaml` holds them and a resumed
run never plans again. The plan is in `config.input.yaml`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from pydantic import ValidationError

from penstock.hooks.architecture import ArchitectureSettings
from penstock.hooks.config import ConfigDocument
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.hooks.schema import component_name, schema_of


def with_planned_sizes(document: ConfigDocument, registry: Registry) -> tuple[ConfigDocument, list[Problem]]:
    """Replaces `model.plan` by sizes. Returns the document and the problems of the plan. If the plan has problems,
    other sizes stand in, so that the rest of the config can be checked."""
    model = document.value.get("model")
    schema = _planning_schema(model, registry)
    if schema is None:
        return document, []
    fields: dict[str, Any] = {name: value for name, value in cast("dict[str, Any]", model).items() if name != "use"}
    data = document.value.get("data")
    tokenizer = _tokenizer(data)
    try:
        if tokenizer.get("file") is not None and fields["plan"].get("vary") == "vocabulary":
            what = "the vocabulary of data.tokenizer.file cannot vary"
            raise ProblemError(Problem("bad-value", what, "model.plan.vary", "vary the factor or the depth"))
        sizes = schema.planned(fields, None if tokenizer.get("file") else tokenizer.get("vocab_size", 4096))
    except ValidationError:  # the plan itself is invalid, which is reported with the other fields
        return _replaced(document, {**schema.placeholder_sizes(), **fields}), []
    except ProblemError as error:
        others = {name: value for name, value in fields.items() if name != "plan"}
        stand_in = _replaced(document, {**schema.placeholder_sizes(), **others})
        return stand_in, [replace(each, where=_where(document, each.where)) for each in error.problems]
    planned = _replaced(document, sizes)
    if tokenizer.get("file") is None and isinstance(data, dict):
        tokenizer = {**tokenizer, "vocab_size": sizes["vocab_size"]}
        planned = replace(planned, value={**planned.value, "data": {**data, "tokenizer": tokenizer}})
    return planned, []


def _planning_schema(model: object, registry: Registry) -> type[ArchitectureSettings] | None:
    """The schema of the model's architecture, if the model has a plan and the architecture can plan."""
    if not isinstance(model, dict) or not isinstance(cast("dict[str, Any]", model).get("plan"), dict):
        return None
    try:
        schema = schema_of(registry.find(("architecture",), component_name(cast(object, model)) or ""))
    except ProblemError:  # reported by the validation
        return None
    return schema if issubclass(schema, ArchitectureSettings) and "plan" in schema.model_fields else None


def _tokenizer(data: object) -> dict[str, Any]:
    found = cast("dict[str, Any]", data).get("tokenizer") if isinstance(data, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _replaced(document: ConfigDocument, fields: Mapping[str, Any]) -> ConfigDocument:
    """Replaces the fields of the model. Messages about fields that the user did not write name the line of the plan."""
    model = {"use": document.value["model"]["use"], **fields}
    plan = document.sources.get(("model", "plan"))
    unwritten = {("model", name): plan for name in fields if plan and ("model", name) not in document.sources}
    return replace(document, value={**document.value, "model": model}, sources={**document.sources, **unwritten})


def _where(document: ConfigDocument, path: str) -> str:
    return document.where(tuple(int(part) if part.isdecimal() else part for part in path.split(".")))
