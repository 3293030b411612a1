"""From the messages of a chat to the text that a model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.data_prep.chat_template import OWN, file_template, written
from penstock.generate.chat import USER, Turn, transcript
from penstock.hooks.contracts import Message
from penstock.hooks.problems import ProblemError
from penstock.server.http.errors import ApiError

TRANSCRIPT = "transcript"
"""The name of what `penstock chat` writes for a model without a template."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """`text` spells special tokens if `spelled`, and a reply ends before any of the texts `stops`."""

    text: str
    spelled: bool
    stops: tuple[str, ...] = ()


def template_of(given: str | None) -> str | None:
    """The template that the server was started with: Jinja, or `TRANSCRIPT`; None: the model's own. Raises
    `ProblemError` for a file that is missing or damaged."""
    if given is None or given == OWN:
        return None
    return TRANSCRIPT if given == TRANSCRIPT else file_template(Path(given).expanduser())


def conversation(
    template: str | None, messages: Sequence[Message], special: Mapping[str, str], name: str
) -> Conversation:
    """Raises `ApiError` without a template, and for messages that it does not take."""
    if template is None:
        what = "the model has no chat template: use /v1/completions, or start the server with --chat-template"
        raise ApiError(400, what, param="messages", code="no_chat_template")
    if template == TRANSCRIPT:
        return Conversation(transcript(_turns(messages)), spelled=False, stops=(f"\n{USER}:",))
    try:
        return Conversation(written(template, messages, special, name), spelled=True)
    except ProblemError as error:
        raise ApiError(400, f"the chat template does not take these messages: {error}", param="messages") from error


def _turns(messages: Sequence[Message]) -> list[Turn]:
    """
    >>> _turns([Message("user", "Hello."), Message("assistant", "Good day."), Message("user", "Who are you?")])
    [Turn(message='Hello.', reply='Good day.'), Turn(message='Who are you?', reply='')]
    """
    roles = [each.role for each in messages]
    if len(roles) % 2 == 0 or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        what = "a transcript has messages of user and assistant in turn, and the last is the user's"
        raise ApiError(400, what, param="messages")
    texts = [each.content for each in messages]
    return [Turn(message, reply) for message, reply in zip(texts[::2], [*texts[1::2], ""], strict=True)]
