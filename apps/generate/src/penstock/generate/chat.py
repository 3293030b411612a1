"""A conversation with a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from penstock.data_prep.chat_template import written
from penstock.generate.model import Continuation, Sampling, TextModel
from penstock.hooks.contracts import Message
from penstock.hooks.problems import ExitCode, ProblemError

USER, ASSISTANT = "User", "Assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and the reply to it."""

    message: str
    reply: str = ""


@dataclass(slots=True)
class Chat:
    """A conversation. Each reply reads every turn before it, as long as they fit into the model's positions.

    With a chat template, turns are what the template makes of them. Without, they are a transcript, `User: ...` and
    `Assistant: ...`, which a base model continues; a reply ends where the model writes the user's next line.
    """

    model: TextModel
    sampling: Sampling
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0
    """How many turns the last reply could not read."""

    def reply(self, message: str) -> Continuation:
        """The reply to a message, in pieces; call `keep` with it once it has ended."""
        prompt_tokens, self.left_out = self._prompt([*self.turns, Turn(message)])
        stop = self.sampling.stop if self.model.template else (*self.sampling.stop, f"\n{USER}:")
        return self.model.continued(prompt_tokens, replace(self.sampling, stop=stop))

    def keep(self, message: str, reply: str) -> None:
        """Adds a turn to the conversation."""
        self.turns.append(Turn(message, reply.strip()))

    def _prompt(self, turns: Sequence[Turn]) -> tuple[list[int], int]:
        """The tokens of the newest turns that leave room for a reply, and how many turns that leaves out."""
        positions = self.model.positions
        wanted = 0 if positions is None else min(self.sampling.tokens, positions // 4)
        for first in range(len(turns)):
            tokens = self._tokens(turns[first:])
            room = self.model.room(tokens)
            if room is None or room >= wanted or first == len(turns) - 1:
                return tokens, first
        raise AssertionError("there is always the turn of the message")

    def _tokens(self, turns: Sequence[Turn]) -> list[int]:
        if self.model.template is None:
            return self.model.prompt_tokens(transcript(turns))
        text = rendered(self.model.template, turns, self.model.special, self.model.name)
        return self.model.prompt_tokens(text, spelled=True)


def transcript(turns: Sequence[Turn]) -> str:
    """
    >>> transcript([Turn("Hello.", "Good day."), Turn("Who are you?")])
    'User: Hello.\\nAssistant: Good day.\\nUser: Who are you?\\nAssistant:'
    """
    earlier = "".join(f"{USER}: {turn.message}\n{ASSISTANT}: {turn.reply}\n" for turn in turns[:-1])
    return f"{earlier}{USER}: {turns[-1].message}\n{ASSISTANT}:"


def rendered(template: str, turns: Sequence[Turn], special: dict[str, str], where: str) -> str:
    """A conversation as a chat template of the Hugging Face layout writes it, up to where the next reply begins.

    Raises `ProblemError` for a template that fails.
    """
    messages: list[Message] = []
    for turn in turns:
        messages += [Message("user", turn.message), Message("assistant", turn.reply)]
    try:
        return written(template, messages[:-1], special, where)
    except ProblemError as error:
        raise ProblemError(error.problems, ExitCode.FAILED) from error
