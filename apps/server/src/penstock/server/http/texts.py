"""From requests to texts: prompts to tokens, and tokens to pieces of text that stop where they are told to."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from penstock.data_prep.published import PublishedTokenizer
from penstock.generate.stops import StopTexts
from penstock.hooks.contracts import Draw, Message
from penstock.server.engine.client import EngineClient, EngineLostError, RefusedError, Served
from penstock.server.engine.request import Ended
from penstock.server.http.conversations import conversation
from penstock.server.http.errors import ApiError, unavailable
from penstock.server.http.schemas import ChatMessage
from penstock.server.metrics import ServerMetrics

SHRINKING = 4
"""How much shorter a tokenizer may make a text before it cuts it into tokens, by composing characters or dropping
blanks."""


@dataclass(frozen=True, slots=True)
class TokenTold:
    """A token with its log-probability and the likeliest in its place."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is complete, and the tokens that were made for it. `finish` is why the text ended, at its last piece:
    "stop" or "length"."""

    text: str
    told: Sequence[TokenTold] = ()
    finish: str | None = None


@dataclass(slots=True)
class Wanted:
    """How a prompt is continued; see `EngineClient.steps`."""

    most: int
    draw: Draw
    stops: Sequence[str]
    seed: int
    ignore_eos: bool


@dataclass(slots=True)
class Text:
    """A continuation in pieces; the counts are complete once it has ended."""

    prompt_tokens: int
    new_tokens: int = 0
    cached_tokens: int = 0
    pieces: AsyncGenerator[Piece] = field(repr=False, default=None)  # pyright: ignore[reportAssignmentType]


class Texts:
    """Texts of one model. `served` is what the engine says of it; `template` is written instead of the model's own."""

    def __init__(self, engine: EngineClient, metrics: ServerMetrics, template: str | None = None) -> None:
        self._engine, self._metrics, self._template = engine, metrics, template
        self._tokenizers: dict[str, PublishedTokenizer] = {}

    @property
    def served(self) -> Served:
        try:
            return self._engine.served
        except EngineLostError as error:
            raise unavailable(str(error)) from error

    @property
    def tokenizer(self) -> PublishedTokenizer:
        served = self.served
        if served.tokenizer not in self._tokenizers:
            self._tokenizers = {
                served.tokenizer: PublishedTokenizer.of_serialized(
                    served.tokenizer.encode(), adds_tokens=served.adds_tokens
                )
            }
        return self._tokenizers[served.tokenizer]

    def prompt(self, text: str, *, spelled: bool = False, param: str = "prompt") -> list[int]:
        """The tokens of a prompt, as `TextModel.prompt_tokens` makes them. Raises `ApiError` for one that is far too
        long to fit, without making its tokens: nothing else is answered meanwhile."""
        served, tokenizer = self.served, self.tokenizer
        if len(text) > SHRINKING * tokenizer.longest_token * served.positions:
            what = f"{len(text):,} characters do not fit into the context of {served.positions} tokens"
            raise ApiError(400, what, param=param, code="context_length_exceeded")
        return [*([] if spelled else served.begins), *tokenizer.prompt(text, spelled=spelled)]

    def chat(self, messages: Sequence[ChatMessage]) -> tuple[list[int], tuple[str, ...]]:
        """The tokens of a conversation, as the template writes it, and texts before which a reply ends."""
        served = self.served
        turns = [Message(each.role, each.text) for each in messages]
        template = served.template if self._template is None else self._template
        made = conversation(template, turns, served.special, served.name)
        return self.prompt(made.text, spelled=made.spelled, param="messages"), made.stops

    def require_room(self, tokens: Sequence[int], most: int | None, *, param: str = "prompt") -> int:
        """How many tokens may follow a prompt: `most`, or all that fit. Raises `ApiError`."""
        served = self.served
        if not tokens:
            raise ApiError(400, "the prompt is empty, and the tokenizer has no token that begins a text", param=param)
        if not 0 <= min(tokens) <= max(tokens) < served.vocabulary_size:
            raise ApiError(400, f"a token outside the vocabulary of {served.vocabulary_size}", param=param)
        room = served.positions + 1 - len(tokens)
        if room < 1 or (most is not None and most > room):
            asked = f"{len(tokens)} tokens of the prompt" + ("" if most is None else f" and {most} new ones")
            what = f"{asked} do not fit into the context of {served.positions}"
            raise ApiError(400, what, param=param, code="context_length_exceeded")
        return room if most is None else most

    def require_engine(self) -> None:
        """Raises `ApiError` while the engine is being started, before the status of a stream is sent."""
        if not self._engine.ready.is_set():
            raise unavailable("the engine is being started")

    def continued(self, tokens: Sequence[int], wanted: Wanted) -> Text:
        text = Text(len(tokens))
        text.pieces = self._pieces(text, tokens, wanted)
        return text

    async def _pieces(self, text: Text, tokens: Sequence[int], wanted: Wanted) -> AsyncGenerator[Piece]:
        stream, stops, piece = self.tokenizer.stream(tokens), StopTexts(wanted.stops), ""
        ends = [] if wanted.ignore_eos else self.served.ends
        steps = self._engine.steps(tokens, most=wanted.most, draw=wanted.draw, seed=wanted.seed, ends=ends)
        told: list[TokenTold] = []
        finish, measured, reason = Ended.LENGTH, self._metrics.begun(len(tokens)), "abort"
        try:
            async for step in steps:
                text.cached_tokens = step.cached
                if step.ended == Ended.ERROR or step.token is None:
                    what = "the model computed logits that are NaN or infinite"
                    raise ApiError(500, what, "server_error", code="not_finite")
                text.new_tokens += 1
                measured.token(step.cached)
                if step.ended == Ended.STOP:
                    finish = Ended.STOP
                    break
                if step.logprob is not None:
                    told.append(TokenTold(step.token, step.logprob, step.top))
                piece = stops.push(stream.push(step.token))
                if stops.found:
                    finish = Ended.STOP
                    break
                if piece:
                    yield Piece(piece, told)
                    told, piece = [], ""
            left = piece if stops.found else stops.push(stream.finish()) + stops.finish()
            reason = Ended.STOP if stops.found else finish
            yield Piece(left, told, reason)
        except EngineLostError as error:
            reason = "error"
            raise unavailable(str(error)) from error
        except RefusedError as error:
            reason = "error"
            raise ApiError(400, str(error)) from error
        except ApiError:
            reason = "error"
            raise
        finally:
            measured.ended(reason)
            await steps.aclose()


def seed_of(given: int | None, choice: int) -> int:
    """The seed of a choice: the same request has the same choices, and no two choices of it are one."""
    return (secrets.randbits(63) if given is None else given + choice) % 2**63
