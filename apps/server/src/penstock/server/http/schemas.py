"""What a request may say. A field that is not here is refused, and so is a value that this server does not honour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails

from penstock.generate.model import COLDEST
from penstock.hooks.contracts import Draw
from penstock.server.http.errors import ApiError, unsupported

MOST_STOPS, MOST_LOGPROBS, MOST_CHOICES = 4, 20, 128
MOST_TOLD = 1000
"""Mistakes of which one is told; of more, their number."""
Neutral = Mapping[str, tuple[object, ...]]


class _Schema(BaseModel):
    """A null asks for nothing, like a field that is left out, and so do the values of `neutral`: fields of the
    interface that this server does not honour otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True)
    neutral: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if not cls._is_neutral(name, value)}  # pyright: ignore

    @classmethod
    def _is_neutral(cls, name: str, value: object) -> bool:
        return value is None if name in cls.model_fields else value in cls.neutral.get(name, ())


class StreamOptions(_Schema):
    include_usage: bool = False


Stops = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_STOPS)]


class GeneratingRequest(_Schema):
    """What completions and chats have in common."""

    neutral: ClassVar[Neutral] = {
        "presence_penalty": (None, 0),
        "frequency_penalty": (None, 0),
        "logit_bias": (None, {}),
        "metadata": (None, {}),
        "store": (None, False),
        "service_tier": (None, "auto", "default"),
    }

    model: str | None = None
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """An extension; -1 and 0 restrict nothing."""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Annotated[str, Field(min_length=1)] | Stops | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    ignore_eos: bool = False
    """An extension: tokens that end a text do not end it."""
    user: str | None = None
    """Told by clients, and read by nobody."""

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "`stream_options` needs `stream: true`", param="stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def draw(self, logprobs: int | None) -> Draw:
        """Temperatures below the coldest that fp32 holds are greedy."""
        temperature = self.temperature if self.temperature >= COLDEST else 0.0
        top_k = None if not self.top_k or self.top_k < 1 else self.top_k
        return Draw(temperature, top_k, None if self.top_p == 1.0 else self.top_p, logprobs)


def _prompts(given: Any) -> list[str] | list[list[int]]:
    """
    >>> _prompts("a"), _prompts(["a", "b"]), _prompts([1, 2]), _prompts([[1], [2]])
    (['a'], ['a', 'b'], [[1, 2]], [[1], [2]])
    """
    if isinstance(given, str):
        return [given]
    if _are(str, given) and given:
        return given
    if _are(int, given) and given:
        return [given]
    if isinstance(given, list) and given and all(_are(int, each) for each in given):  # pyright: ignore
        return given  # pyright: ignore
    raise ValueError("a prompt is a text or a list of tokens, or a list of such, and no list of both")


Item = TypeVar("Item")


def _are(kind: type[Item], given: Any) -> TypeGuard[list[Item]]:
    """Whether this is a list of values of the kind itself, as a bool is no number."""
    return isinstance(given, list) and all(type(each) is kind for each in given)  # pyright: ignore


class CompletionRequest(GeneratingRequest):
    neutral: ClassVar[Neutral] = {
        **GeneratingRequest.neutral,
        "suffix": (None, ""),
        "echo": (None, False),
        "best_of": (None, 1),
    }

    prompt: Annotated[list[str] | list[list[int]], PlainValidator(_prompts)]
    max_tokens: int = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)


class TextPart(_Schema):
    type: Literal["text"]
    text: str


class ChatMessage(_Schema):
    """The neutral values are those with which clients give a reply back."""

    neutral: ClassVar[Neutral] = {
        "name": (None,),
        "refusal": (None,),
        "annotations": (None, []),
        "audio": (None,),
        "tool_calls": (None, []),
        "tool_call_id": (None,),
        "function_call": (None,),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GeneratingRequest):
    neutral: ClassVar[Neutral] = {
        **GeneratingRequest.neutral,
        "tools": (None, []),
        "tool_choice": (None, "none"),
        "functions": (None, []),
        "function_call": (None, "none"),
        "parallel_tool_calls": (None, True, False),
        "response_format": (None, {"type": "text"}),
        "modalities": (None, ["text"]),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)

    @model_validator(mode="after")
    def _fields_that_need_others(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "`top_logprobs` needs `logprobs: true`", param="top_logprobs")
        if None not in (named := {self.max_tokens, self.max_completion_tokens}) and len(named) > 1:
            raise ApiError(
                400, "`max_tokens` is the older name of `max_completion_tokens`: send one", param="max_tokens"
            )
        return self

    @property
    def most(self) -> int | None:
        """New tokens at most; None: all that fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenizeRequest(_Schema):
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


class DetokenizeRequest(_Schema):
    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]


Asked = TypeVar("Asked", bound=_Schema)


def read(schema: type[Asked], body: Any) -> Asked:
    """The request. Raises `ApiError` that names a field which is wrong or unsupported."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise _refused(error) from error


def _refused(error: ValidationError) -> ApiError:
    if error.error_count() > MOST_TOLD:
        return ApiError(400, f"{error.error_count()} fields or values are wrong")
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    same = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    told = max(same, key=_fit)
    unknown = told["type"] == "extra_forbidden"
    *inside, last = told["loc"]
    names = [str(each) for each in inside if not _is_type(each)] + (
        [str(last)] if unknown or not _is_type(last) else []
    )
    param = ".".join(names)
    if unknown:
        return unsupported(param, f"this server does not support `{param}`: leave it out")
    return ApiError(400, f"`{param}`: {told['msg'].removeprefix('Value error, ')}", param=param)


def _fit(error: ErrorDetails) -> tuple[int, bool]:
    """How far a value fits the member of a union that it failed in: into its items, or to its type at least."""
    return len(error["loc"]), not error["type"].endswith("_type")


def _is_type(part: str | int) -> bool:
    """Whether a part of a place is the member of a union that pydantic tried, and no name of a field.

    >>> [_is_type(part) for part in ("stop", "str", "list[str]", "constrained-str", 3)]
    [False, True, True, True, False]
    """
    return isinstance(part, str) and (part in ("str", "int") or not part.isidentifier())
