"""What completions and chats answer, whole and in events.

Field by field as OpenAI's interface has it, so that its clients read them.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.server.http.texts import Piece, TokenTold

DONE = b"data: [DONE]\n\n"
LEAST = -9999.0
"""Told instead of smaller log-probabilities, as OpenAI does: JSON has no infinity."""


@dataclass(slots=True)
class Usage:
    """Tokens of a request: prompts are counted once, however many choices they have."""

    prompt: int = 0
    new: int = 0
    cached: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.new,
            "total_tokens": self.prompt + self.new,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(slots=True)
class Answer:
    """How one endpoint writes. `spelled` is the text of tokens; `tells_usage`: the events of a stream do."""

    model: str
    kind: str
    """`completion` or `chat`"""
    logprobs: bool
    spelled: Callable[[Sequence[int]], str]
    tells_usage: bool = False
    id: str = ""
    created: int = 0
    offsets: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        self.id = f"{'cmpl' if self.kind == 'completion' else 'chatcmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def whole(self, choices: Sequence[tuple[str, str, list[TokenTold]]], usage: Usage) -> dict[str, Any]:
        """Of the text, the reason why it ended and the tokens of each choice."""
        name = "text_completion" if self.kind == "completion" else "chat.completion"
        made: list[dict[str, Any]] = []
        for index, (text, finish, told) in enumerate(choices):
            content = {"text": text} if self.kind == "completion" else {"message": _message(text)}
            made.append({"index": index, **content, "logprobs": self._told(index, told), "finish_reason": finish})
        return {**self._head(name), "choices": made, "usage": usage.body()}

    def begins(self, index: int) -> bytes | None:
        """The event before the first piece of a choice."""
        if self.kind == "completion":
            return None
        return self._event([{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def piece(self, index: int, piece: Piece) -> bytes:
        content = {"text": piece.text} if self.kind == "completion" else {"delta": {"content": piece.text}}
        told = self._told(index, piece.told)
        return self._event([{"index": index, **content, "logprobs": told, "finish_reason": piece.finish}])

    def usage(self, usage: Usage) -> bytes:
        return self._event([], usage.body())

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        name = "text_completion" if self.kind == "completion" else "chat.completion.chunk"
        more = {"usage": usage} if self.tells_usage else {}
        return b"data: " + json.dumps({**self._head(name), "choices": choices, **more}).encode() + b"\n\n"

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def _told(self, index: int, told: Sequence[TokenTold]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        if self.kind == "chat":
            return {
                "content": [{**self._token(each.token, each.logprob), "top_logprobs": self._top(each)} for each in told]
            }
        texts = [self.spelled([each.token]) for each in told]
        offsets: list[int] = []
        for text in texts:
            offsets.append(self.offsets.get(index, 0))
            self.offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [max(each.logprob, LEAST) for each in told],
            "top_logprobs": [self._by_text(each) for each in told],
            "text_offset": offsets,
        }

    def _by_text(self, told: TokenTold) -> dict[str, float]:
        """The likeliest token of each text: parts of characters are all spelled alike."""
        values: dict[str, float] = {}
        for token, logprob in told.top:
            values.setdefault(self.spelled([token]), max(logprob, LEAST))
        return values

    def _top(self, told: TokenTold) -> list[dict[str, Any]]:
        return [self._token(token, logprob) for token, logprob in told.top]

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.spelled([token])
        whole = "\ufffd" not in text  # the bytes of a part of a character are not those of U+FFFD
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(text.encode()) if whole else None}


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "refusal": None}
