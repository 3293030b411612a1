"""The application: endpoints, and what happens to a request before and after them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from penstock.server.engine.client import EngineClient
from penstock.server.http import answers
from penstock.server.http.answers import Answer, Usage
from penstock.server.http.errors import ApiError, unavailable
from penstock.server.http.keys import RequireKey
from penstock.server.http.limits import ClientGoneError, Limits, Places, json_body, while_connected, within
from penstock.server.http.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    read,
)
from penstock.server.http.texts import Text, Texts, TokenTold, Wanted, seed_of
from penstock.server.metrics import ServerMetrics

EVENTS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Settings:
    """`name` is that of the model in the interface."""

    name: str
    keys: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)


class Service:
    """The endpoints of one model."""

    def __init__(self, engine: EngineClient, settings: Settings) -> None:
        self.settings = settings
        self.metrics = ServerMetrics(engine, settings.name)
        engine.on_loads, engine.on_restart = self.metrics.loads.add, self.metrics.restarts.inc
        self._engine, self._texts = engine, Texts(engine, self.metrics)
        self._places = Places(settings.limits.queue)
        self._begun = int(time.time())

    def application(self) -> Starlette:
        routes = [
            Route("/v1/completions", self._answered(self.completions), methods=["POST"]),
            Route("/v1/chat/completions", self._answered(self.chat), methods=["POST"]),
            Route("/v1/models", self._answered(self.models), methods=["GET"]),
            Route("/tokenize", self._answered(self.tokenize), methods=["POST"]),
            Route("/detokenize", self._answered(self.detokenize), methods=["POST"]),
            Route("/health", self._answered(self.health), methods=["GET"]),
            Route("/ready", self._answered(self.ready), methods=["GET"]),
            Route("/metrics", self.scraped, methods=["GET"]),
        ]
        keyed = [Middleware(RequireKey, keys=self.settings.keys)]
        return Starlette(routes=routes, middleware=keyed, exception_handlers={404: _missing, 405: _missing})

    def _answered(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint whose errors are answers, and whose answers are counted."""

        async def answer(request: Request) -> Response:
            response = await _with_errors(endpoint, request)
            self.metrics.answers.labels(request.url.path, str(response.status_code)).inc()
            return response

        return answer

    async def health(self, request: Request) -> Response:
        """The server's process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """The engine has loaded the model."""
        if not self._engine.ready.is_set():
            raise unavailable("the engine is being started")
        return JSONResponse({"status": "ready"})

    async def scraped(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def models(self, request: Request) -> Response:
        served = self._texts.served
        own = {"id": self.settings.name, "object": "model", "created": self._begun, "owned_by": "penstock"}
        return JSONResponse({"object": "list", "data": [{**own, "max_model_len": served.positions}]})

    async def tokenize(self, request: Request) -> Response:
        asked = read(TokenizeRequest, await json_body(request, self.settings.limits.body))
        self._require_model(asked.model)
        tokens = self._texts.prompt(asked.prompt, spelled=not asked.add_special_tokens)
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": self._texts.served.positions})

    async def detokenize(self, request: Request) -> Response:
        asked = read(DetokenizeRequest, await json_body(request, self.settings.limits.body))
        self._require_model(asked.model)
        if asked.tokens and max(asked.tokens) >= self._texts.served.vocabulary_size:
            what = f"a token outside the vocabulary of {self._texts.served.vocabulary_size}"
            raise ApiError(400, what, param="tokens")
        return JSONResponse({"prompt": self._texts.tokenizer.text(asked.tokens)})

    async def completions(self, request: Request) -> Response:
        asked = read(CompletionRequest, await json_body(request, self.settings.limits.body))
        self._require_model(asked.model)
        prompts = [self._texts.prompt(each) if isinstance(each, str) else each for each in _prompts(asked.prompt)]
        wanted = [
            Wanted(
                self._texts.require_room(tokens, asked.max_tokens),
                asked.draw(asked.logprobs),
                asked.stops,
                seed_of(asked.seed, choice),
                asked.ignore_eos,
            )
            for tokens in prompts
            for choice in range(asked.n)
        ]
        answer = Answer(self.settings.name, "completion", asked.logprobs is not None, self._texts.tokenizer.text)
        each_prompt = [tokens for tokens in prompts for _ in range(asked.n)]
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await self._answer(request, answer, each_prompt, wanted, asked.n, stream=asked.stream, usage=usage)

    async def chat(self, request: Request) -> Response:
        asked = read(ChatRequest, await json_body(request, self.settings.limits.body))
        self._require_model(asked.model)
        tokens = self._texts.chat(asked.messages)
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "`top_logprobs` needs `logprobs: true`", param="top_logprobs")
        most = self._texts.require_room(tokens, asked.max_completion_tokens or asked.max_tokens, param="messages")
        draw = asked.draw((asked.top_logprobs or 0) if asked.logprobs else None)
        wanted = [
            Wanted(most, draw, asked.stops, seed_of(asked.seed, choice), asked.ignore_eos) for choice in range(asked.n)
        ]
        answer = Answer(self.settings.name, "chat", asked.logprobs, self._texts.tokenizer.text)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await self._answer(
            request, answer, [tokens] * asked.n, wanted, asked.n, stream=asked.stream, usage=usage
        )

    def _require_model(self, name: str | None) -> None:
        if name is not None and name != self.settings.name:
            what = f"model '{name}' not found: this server has '{self.settings.name}'"
            raise ApiError(404, what, param="model", code="model_not_found")

    async def _answer(
        self,
        request: Request,
        answer: Answer,
        prompts: Sequence[Sequence[int]],
        wanted: Sequence[Wanted],
        n: int,
        *,
        stream: bool,
        usage: bool,
    ) -> Response:
        """Of `n` choices for each prompt, in the order of the prompts."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._places.take(len(wanted), self._texts.served.slots))
            texts = [self._texts.continued(tokens, each) for tokens, each in zip(prompts, wanted, strict=True)]
            if stream:
                body = self._streamed(answer, texts, n, stack.pop_all(), usage=usage)
                return StreamingResponse(body, media_type="text/event-stream", headers=EVENTS)
            async with within(self.settings.limits.seconds):
                choices = await while_connected(request, _all(texts))
            return JSONResponse(answer.whole(choices, _usage(texts, n)))

    async def _streamed(
        self, answer: Answer, texts: Sequence[Text], n: int, places: AsyncExitStack, *, usage: bool
    ) -> AsyncIterator[bytes]:
        """The events of all choices as they come. An error is an event too, because the status has been sent."""
        async with places:
            try:
                async with within(self.settings.limits.seconds):
                    async for event in _merged(
                        [answers.events(answer, index, text) for index, text in enumerate(texts)]
                    ):
                        yield event
                if usage:
                    yield answer.usage(_usage(texts, n))
                yield answers.DONE
            except ApiError as error:
                yield b"data: " + json.dumps(error.body()).encode() + b"\n\n"


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    """
    >>> _prompts("a"), _prompts(["a", "b"]), _prompts([1, 2]), _prompts([[1], [2]])
    (['a'], ['a', 'b'], [[1, 2]], [[1], [2]])
    """
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [given]  # pyright: ignore[reportReturnType]
    return given  # pyright: ignore[reportReturnType]


def _usage(texts: Sequence[Text], n: int) -> Usage:
    return Usage(
        sum(text.prompt_tokens for text in texts[::n]),
        sum(text.new_tokens for text in texts),
        sum(text.cached_tokens for text in texts[::n]),
    )


async def _all(texts: Sequence[Text]) -> list[tuple[str, str, list[TokenTold]]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(answers.gathered(text)) for text in texts]
    return [task.result() for task in tasks]


async def _merged(streams: Sequence[AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    """The items of several streams as they come."""
    if len(streams) == 1:
        async for item in streams[0]:
            yield item
        return
    queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def forward(stream: AsyncIterator[bytes]) -> None:
        try:
            async for item in stream:
                queue.put_nowait(item)
            queue.put_nowait(None)
        except Exception as error:  # handed to the reader, which raises it
            queue.put_nowait(error)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _with_errors(endpoint: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    try:
        return await endpoint(request)
    except ApiError as error:
        return error.response()
    except ExceptionGroup as group:
        found = group.subgroup(ApiError)
        if found is None:
            raise
        first = found.exceptions[0]
        assert isinstance(first, ApiError)
        return first.response()
    except (ClientGoneError, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it


def _missing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = f"{request.method} {request.url.path} is not part of this interface"
    return ApiError(status, what, code="not_found").response()
