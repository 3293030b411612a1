"""What a request may say. A field that is not here is refused, and so is a value that this server does not honour."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from penstock.generate.model import COLDEST
from penstock.hooks.contracts import Draw
from penstock.server.http.errors import ApiError, unsupported

MOST_STOPS, MOST_LOGPROBS, MOST_CHOICES = 4, 20, 128
NEUTRAL: dict[str, tuple[object, ...]] = {
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "function_call": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
    "parallel_tool_calls": (None, True, False),
}
"""Fields of the interface that this server does not honour, with the values that ask for nothing."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Schema):
    include_usage: bool = False


Texts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_STOPS)]


class _Generating(_Schema):
    """What completions and chats have in common."""

    model: str | None = None
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    """An extension; -1 and 0 restrict nothing."""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Annotated[str, Field(min_length=1)] | Texts | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    ignore_eos: bool = False
    """An extension: tokens that end a text do not end it."""
    user: str | None = None
    """Told by clients, and read by nobody."""
    metadata: dict[str, str] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def draw(self, logprobs: int | None) -> Draw:
        """Temperatures below the coldest that fp32 holds are greedy."""
        temperature = self.temperature if self.temperature >= COLDEST else 0.0
        top_k = None if not self.top_k or self.top_k < 1 else self.top_k
        return Draw(temperature, top_k, None if self.top_p == 1.0 else self.top_p, logprobs)


class CompletionRequest(_Generating):
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    max_tokens: int | None = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)


class TextPart(_Schema):
    type: Literal["text"]
    text: str


class ChatMessage(_Schema):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(_Generating):
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)


class TokenizeRequest(_Schema):
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


class DetokenizeRequest(_Schema):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


Asked = TypeVar("Asked", bound=_Schema)


def read(schema: type[Asked], body: Any) -> Asked:
    """The request. Raises `ApiError` that names the first field which is wrong or unsupported."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    given = dict(body)
    for name in NEUTRAL.keys() & given.keys() - schema.model_fields.keys():
        if given.pop(name) not in NEUTRAL[name]:
            raise unsupported(name, f"this server does not support `{name}`: leave it out")
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(each) for each in first["loc"] if not _is_type(each))
        if first["type"] == "extra_forbidden":
            raise unsupported(param, f"unknown field `{param}`") from error
        raise ApiError(400, f"`{param}`: {first['msg']}", param=param) from error


def _is_type(part: str | int) -> bool:
    """Whether a part of a place is the member of a union that pydantic tried, and no name of a field.

    >>> [_is_type(part) for part in ("stop", "str", "list[str]", "constrained-str", 3)]
    [False, True, True, True, False]
    """
    return isinstance(part, str) and (part in ("str", "int") or not part.isidentifier())
