"""Config schemas: `Schema` is the base of every config model, `choice_of(kind)` a field that names a component.

A schema is validated in two phases. The envelope is a `Schema` of the application; wherever it has a field made by
`choice_of(kind)`, the value `{use: NAME, **settings}` is validated in the second phase against the schema of the
component that NAME stands for, which the registry in the validation context knows.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, Union, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from penstock.hooks.component import KINDS
from penstock.hooks.document import Location, Value, below
from penstock.hooks.problems import ExitCode, Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Choice, Entry, Registry, broken

PROBLEM = "penstock_problem"  # the type of pydantic errors that carry a `Problem`
KIND_MARK = "x-penstock-kinds"  # a marker in JSON schemas that `json_schema` replaces by references to the kinds


class Hole:
    """In the place of a value that was refused. What rests on it cannot be checked; all else can (see `validation`)."""


class Schema(BaseModel):
    """Base of every config schema: unknown fields are errors, values cannot be changed, defaults are validated.

    A schema with a field `preset` overrides `presets()`: fields that the user wrote override the preset's (a nested
    mapping replaces the preset's as a whole). `argument` names the field that ARGUMENT is in `NAME:ARGUMENT` on a
    command line.
    """

    argument: ClassVar[str | None] = None

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        validate_default=True,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
    )
    _holes: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def presets(cls) -> Mapping[str, Mapping[str, Any]]:
        """Named sets of values for this schema."""
        return {}

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """Working settings, with which the conformance kit builds the component. Files that they need may be written
        to `folder`, which is empty. A component without required fields can keep this default."""
        return {}

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str | Problem]]:
        """Values that are valid each and do not fit together: for each, the path of the field to change, such as
        ("router", "k"), and what is wrong. All of them are reported at once."""
        yield from ()

    def unavailable(self) -> Iterator[tuple[tuple[str | int, ...], Problem]]:
        """What this machine cannot give now, such as a port in use, each with the path of its field. A run asks
        observers and trackers before any work, on the rank that has them; files are found by `InputPath`."""
        yield from ()

    @classmethod
    def giver(cls, fields: Mapping[str, Any], name: str) -> str | None:
        """Where the value of an unwritten field `name` comes from (a preset), or None for its default."""
        preset = fields.get("preset")
        return f"preset '{preset}'" if isinstance(preset, str) and name in cls.presets().get(preset, {}) else None

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        fields = {
            name: _plain_bools(value, cls.model_fields[name].annotation) if name in cls.model_fields else value
            for name, value in cast("dict[str, Any]", data).items()
        }
        name = fields.get("preset") if "preset" in cls.model_fields else None
        if not isinstance(name, str):
            return fields
        presets = cls.presets()
        # any preset replaces an unknown one, so that the fields it would have set are not reported as missing
        values = presets[name] if name in presets else next(iter(presets.values()), dict[str, Any]())
        return {**values, **fields}

    @model_validator(mode="wrap")
    @classmethod
    def _around_holes(cls, data: object, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """With holes, an instance that lacks these fields, so that whoever asks for one gets an AttributeError."""
        fields = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        holes = frozenset(name for name, value in fields.items() if isinstance(value, Hole))
        if not holes:
            return handler(data)
        unwritten: dict[str, Any] = {name: (Any, Field(default=None, validate_default=False)) for name in holes}
        partial = create_model(cls.__name__, __base__=cls, **unwritten)
        partial._holes = holes
        whole = {name: value for name, value in fields.items() if name not in holes}
        return partial.model_validate(whole, context=cast("dict[str, Any] | None", info.context))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self._holes:
            vars(self).pop(name, None)
        wrong: list[InitErrorDetails] = []
        try:
            for at, what in self.misfits():
                problem = what if isinstance(what, Problem) else Problem("bad-value", what)
                wrong.append(InitErrorDetails(type=_carrier(problem, misfit=True), loc=at, input=self))
        except AttributeError:
            if not self._holes:
                raise
        if wrong:
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self

    @field_validator("preset", mode="after", check_fields=False)
    @classmethod
    def _preset_exists(cls, name: object) -> object:
        if isinstance(name, str) and name not in cls.presets():
            raise _carrier(Problem("bad-value", f"unknown preset '{name}'", fix=did_you_mean(name, cls.presets())))
        return name

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Describes the fields, lists the presets, and does not require fields that one of them sets."""
        reference = handler(core_schema)
        shown, presets = handler.resolve_ref_schema(reference), cls.presets()
        for name, text in descriptions(cls).items():
            shown["properties"][name].setdefault("description", text)
        if presets:
            given = {name for values in presets.values() for name in values}
            shown["required"] = [name for name in shown.get("required", []) if name not in given]
            if "preset" in shown.get("properties", {}):
                shown["properties"]["preset"]["enum"] = [*presets, None]
        return reference


def _plain_bools(value: Any, annotation: object) -> Any:
    """`value` with the words true and false in place of booleans where numbers are expected: pydantic reads True as 1,
    and refuses the words like any other text."""
    if isinstance(value, bool):
        return str(value).lower() if _is_a_number(annotation) else value
    if isinstance(value, list):
        items = cast("list[object]", value)
        inner = [args[0] for each in _alternatives(annotation) if (args := get_args(each))]
        return [_plain_bools(item, inner[0]) for item in items] if inner else items
    return value


def _is_a_number(annotation: object) -> bool:
    kinds = list(_alternatives(annotation))
    return (int in kinds or float in kinds) and not any(each in kinds for each in (bool, str, Any, object))


@cache
def descriptions(schema: type[Schema]) -> dict[str, str]:
    """What each described field is: its `Field(description=...)`, or the docstring below it.

    pydantic's `use_attribute_docstrings` would read the source of every class when it is made, which would take a fifth
    of the time of `config validate`; this reads it when somebody asks.
    """
    below_fields: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if issubclass(owner, Schema):
            below_fields.update(_docstrings(owner))
    given = {name: field.description or below_fields.get(name) for name, field in schema.model_fields.items()}
    return {name: text for name, text in given.items() if text}


def _docstrings(schema: type[Schema]) -> Iterator[tuple[str, str]]:
    """Each field of a class's own body with the docstring below it; none where the source is not at hand."""
    try:
        [body] = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    except OSError:
        return
    lines = cast(ast.ClassDef, body).body
    for pair in pairwise(lines):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
            case _:
                pass


class OnResume(Enum):
    """What a resumed run may do to a field; a field without a mark changes only where the user says so."""

    FREE = "the result is the same, rounding aside"
    FIXED = "with another value it is another run: other data, or another meaning of a step"
    SAME_COMPONENT = "as without a mark, but the checkpoint holds the state of this component and no other"


class NoSettings(Schema):
    """The schema of a component that takes no settings."""


class OfKind:
    """Makes pydantic read a `Choice` of one of some kinds: `router: Annotated[Choice, OfKind("router")]`."""

    def __init__(self, *kinds: str) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise ValueError(f"name at least one kind, each one of {', '.join(KINDS)} (not {unknown})")
        self.kinds = kinds

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(written_out),
        )

    def __get_pydantic_json_schema__(
        self, core_schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {KIND_MARK: list(self.kinds)}

    def _validate(self, value: object, info: ValidationInfo[Any]) -> Choice:
        if isinstance(value, Choice):
            if value.entry.component.kind in self.kinds:
                return value
            raise ValueError(f"must be a component of kind {self}, but '{value.entry.id}' is not")
        name = component_name(value)
        if name is None:
            what = f"must be the name of a component of kind {self}, or a mapping with `use: NAME`"
            raise _carrier(Problem("bad-value", what))
        context = cast("Mapping[str, Any]", info.context or {})
        if "registry" not in context:
            raise ValueError("component names need a registry; use penstock.hooks.config.validate")
        registry: Registry = context["registry"]
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        try:
            entry = registry.find(self.kinds, name)
            schema = schema_of(entry)
        except ProblemError as error:
            at = ("use",) if fields else ()
            raise _rejected(error.problems[0], name, *at) from error
        settings = schema.model_validate({key: fields[key] for key in fields if key != "use"}, context=context)
        return Choice(entry, None if schema is NoSettings else settings)

    def __str__(self) -> str:
        return " or ".join(f"'{kind}'" for kind in self.kinds)


def choice_of(*kinds: str) -> Any:
    """The annotation of a field that names a component: `router: choice_of("router")`. Its value is a `Choice`.

    Type checkers need the long form: `Annotated[Choice, OfKind("router")]`.
    """
    return Annotated[Choice, OfKind(*kinds)]


def component_name(value: object) -> str | None:
    """The NAME in `NAME` or `{use: NAME, **settings}`, or None if there is no name."""
    name = cast("dict[str, object]", value).get("use") if isinstance(value, dict) else value
    return name if isinstance(name, str) and name else None


def schema_of(entry: Entry) -> type[Schema]:
    """The schema of a component, `NoSettings` if it takes none; raises `ProblemError` if it cannot be imported."""
    path = entry.component.config
    if path is None:
        return NoSettings
    schema = entry.imported(path)
    if not (isinstance(schema, type) and issubclass(schema, Schema)):
        raise ProblemError(broken(entry, TypeError(f"its config '{path}' is not a Schema")), ExitCode.PLUGIN)
    return schema


def schema_at(root: type[Schema], value: Any, location: Location, registry: Registry) -> type[Schema] | None:
    """The schema that owns the fields at `location` of `value`, following components to their own schemas; None if the
    value there has no fields."""
    annotation: object = root
    here: Value = value
    for part in location:
        annotation = _annotation_below(annotation, here, part, registry)
        here = below(here, part)
    return _schema_in(annotation, here, registry)


def _schema_in(annotation: object, value: Value, registry: Registry) -> type[Schema] | None:
    if isinstance(value, list):
        return None
    for alternative in _alternatives(annotation):
        if isinstance(alternative, OfKind):
            name = component_name(value)
            if name is None:  # a union may hold something else
                continue
            try:
                return schema_of(registry.find(alternative.kinds, name))
            except ProblemError:  # reported by the validation itself
                continue
        if isinstance(alternative, type) and issubclass(alternative, Schema):
            return alternative
    return None


def _annotation_below(annotation: object, value: Value, part: str | int, registry: Registry) -> object:
    schema = _schema_in(annotation, value, registry)
    if schema is not None:
        field = schema.model_fields.get(str(part))
        return () if field is None else (field.annotation, *field.metadata)
    for alternative in _alternatives(annotation):
        match get_args(alternative):
            case (_, item) if isinstance(value, dict):
                return item
            case (item, *_) if isinstance(value, list):
                return item
            case _:
                continue
    return ()


def _alternatives(annotation: object) -> Iterator[object]:
    """The members of unions and the parts of `Annotated`, unwrapped recursively."""
    if isinstance(annotation, tuple):
        parts = cast("tuple[object, ...]", annotation)
    elif get_origin(annotation) in (Annotated, Union, types.UnionType):
        parts = get_args(annotation)
    else:
        yield annotation
        return
    for part in parts:
        yield from _alternatives(part)


def written_out(choice: Choice) -> dict[str, Any]:
    """A choice as written in a config, with its canonical id and every setting."""
    settings: Schema | None = choice.settings
    return {"use": choice.entry.id, **(settings.model_dump(mode="json") if settings else {})}


def _carrier(problem: Problem, *, misfit: bool = False) -> PydanticCustomError:
    """A problem as an error that pydantic validators can raise."""
    return PydanticCustomError(PROBLEM, "{problem}", {"problem": problem, "misfit": misfit})


def _rejected(problem: Problem, value: object, *at: str) -> ValidationError:
    """A problem at a path below the value that is being validated, as a pydantic error."""
    return ValidationError.from_exception_data(
        "problem", [InitErrorDetails(type=_carrier(problem), loc=at, input=value)]
    )
