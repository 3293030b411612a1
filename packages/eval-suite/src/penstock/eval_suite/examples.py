"""Questions after examples, as plain text or through a chat template.

Plain text has a blank line behind each example. A template gets each question of an example as a message of the user
and its answer as one of the assistant, or everything in one message of the user: `fewshot_as_multiturn` of
lm-evaluation-harness, on and off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.eval_suite.prompts import always_first, first_token
from penstock.hooks.contracts import ChatTemplate, Generate, Message, TaskContext
from penstock.hooks.problems import Problem, ProblemError


class UsedTemplate:
    """A chat template that knows whether anything was written through it. A result with the template's hash would be
    misleading if the task had not asked through it."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._used = False

    @property
    def sha256(self) -> str:
        return self._template.sha256

    @property
    def shots_as_turns(self) -> bool:
        return self._template.shots_as_turns

    def write(self, messages: Sequence[Message]) -> str:
        self._used = True
        return self._template.write(messages)

    def encode(self, text: str) -> list[int]:
        return self._template.encode(text)

    def require_used(self, where: str) -> None:
        """Raises `ProblemError` if nothing was written."""
        if not self._used:
            what, fix = "the task asks nothing through a chat template", "leave out --chat-template"
            raise ProblemError(Problem("no-chat", what, where, fix))


@dataclass(frozen=True, slots=True)
class Example:
    """A question as it is asked, and its answer, which follows it after a space."""

    question: str
    answer: str


def prompt_text(question: str, examples: Sequence[Example], context: TaskContext, about: str = "") -> str:
    """Everything that the model reads before its answer; `about` says what all questions are, and is the message of
    the system in a chat. Raises `ProblemError` if the chat template fails."""
    before = "".join(f"{each.question} {each.answer}\n\n" for each in examples)
    if context.chat is None:
        return about + before + question
    system = [Message("system", about)] if about else []
    if not context.chat.shots_as_turns:
        return context.chat.write([*system, Message("user", before + question)])
    turns = [turn for each in examples for turn in (Message("user", each.question), Message("assistant", each.answer))]
    return context.chat.write([*system, *turns, Message("user", question)])


def prompt_tokens(text: str, context: TaskContext) -> list[int]:
    """The tokens of a prompt; an empty one is the token before a text. A chat template writes all tokens itself."""
    if context.chat is not None:
        return context.chat.encode(text) or [first_token(context.tokenizer)]
    return [*always_first(context.tokenizer), *context.tokenizer.encode(text)] or [first_token(context.tokenizer)]


def convention(context: TaskContext) -> str:
    """What a chat template adds to the names of metrics."""
    if context.chat is None:
        return ""
    return "-chat" if context.chat.shots_as_turns else "-chat-one-turn"


def require_room(context: TaskContext, tokens: int, task: str) -> None:
    """Raises `ProblemError` if `tokens` new ones leave no room for a prompt."""
    if tokens >= context.sequence_length:
        what = f"{tokens} new tokens, but the model reads {context.sequence_length} at once, the prompt included"
        fix = f"set fewer: --task '{{use: {task}, tokens: {context.sequence_length // 2}}}'"
        raise ProblemError(Problem("bad-request", what, f"task '{task}'", fix))


def is_too_long(request: Generate, context: TaskContext) -> bool:
    return len(request.prompt) + request.tokens > context.sequence_length


def number_text(examples: int) -> str:
    """Such as `5 examples`."""
    return f"{examples} example{'' if examples == 1 else 's'}"


def number_of_examples(
    context: TaskContext, own: int, available: int, where: str, requests: Callable[[int], Sequence[Generate]]
) -> int:
    """The examples before each question: those asked for, or the task's `own` number. With `fit_shots`, the most with
    which no prompt is cut; 0 if one is cut even without. `requests` makes the requests of a number of examples. Raises
    `ProblemError` for more examples than are `available`, and for prompts that are too long with them."""
    wanted = own if context.shots is None else context.shots
    if wanted > available:
        what = f"{number_text(wanted)} before each question, but there are {available}"
        raise ProblemError(Problem("no-shots", what, where, f"use --shots {available}, or give more examples"))
    if context.fit_shots:
        return next((shots for shots in range(wanted, 0, -1) if _all_fit(requests(shots), context)), 0)
    longest = max(len(request.prompt) + request.tokens for request in requests(wanted)) if wanted else 0
    if longest > context.sequence_length:
        what = f"with {number_text(wanted)} and its answer, a question has up to {longest} tokens"
        fix = "use --shots fit for as many as fit, or --shots 0"
        raise ProblemError(
            Problem("shots-too-long", f"{what}, but the model reads {context.sequence_length}", where, fix)
        )
    return wanted


def _all_fit(requests: Sequence[Generate], context: TaskContext) -> bool:
    return not any(is_too_long(request, context) for request in requests)
