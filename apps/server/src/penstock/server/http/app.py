"""The application: endpoints, and what happens to a request before and after them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from penstock.server.engine.client import EngineClient
from penstock.server.http.answers import Answer
from penstock.server.http.errors import ApiError, unavailable
from penstock.server.http.keys import RequireKey
from penstock.server.http.limits import ClientGoneError, Limits, Places, json_body, while_connected, within
from penstock.server.http.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GeneratingRequest,
    TokenizeRequest,
    read,
)
from penstock.server.http.streams import Events, gathered, streamed, usage_of
from penstock.server.http.texts import Texts, Wanted, seed_of
from penstock.server.metrics import ServerMetrics

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Settings:
    """`name` is that of the model in the interface; `template` writes chats instead of the model's own, see
    `conversations.template_of`."""

    name: str
    keys: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    template: str | None = None


class Service:
    """The endpoints of one model."""

    def __init__(self, engine: EngineClient, settings: Settings) -> None:
        self.settings = settings
        self.metrics = ServerMetrics(engine, settings.name)
        engine.on_loads, engine.on_restart = self.metrics.loads.add, self.metrics.restarts.inc
        self._engine, self._texts = engine, Texts(engine, self.metrics, settings.template)
        self._places = Places(settings.limits.queue)
        self._begun = int(time.time())

    def application(self) -> Starlette:
        routes = [
            self._route("POST", "/v1/completions", self.completions),
            self._route("POST", "/v1/chat/completions", self.chat),
            self._route("GET", "/v1/models", self.models),
            self._route("GET", "/v1/models/{name:path}", self.model),
            self._route("POST", "/tokenize", self.tokenize),
            self._route("POST", "/detokenize", self.detokenize),
            self._route("GET", "/health", self.health),
            self._route("GET", "/ready", self.ready),
            Route("/metrics", self.scraped, methods=["GET"]),
        ]
        keyed = [Middleware(RequireKey, keys=self.settings.keys)]
        handlers = {404: _missing, 405: _missing, Exception: _failed}
        made = Starlette(routes=routes, middleware=keyed, exception_handlers=handlers)
        made.router.redirect_slashes = False
        return made

    def _route(self, method: str, path: str, endpoint: Endpoint) -> Route:
        """An endpoint whose errors are answers, and whose answers are counted."""

        async def answer(request: Request) -> Response:
            status = 500
            try:
                response = await _with_errors(endpoint, request)
                status = response.status_code
                return response
            finally:
                self.metrics.answers.labels(path, str(status)).inc()

        return Route(path, answer, methods=[method])

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
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        self._require_model(request.path_params["name"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, object]:
        own = {"id": self.settings.name, "object": "model", "created": self._begun, "owned_by": "penstock"}
        return {**own, "max_model_len": self._texts.served.positions}

    async def tokenize(self, request: Request) -> Response:
        asked = read(TokenizeRequest, await json_body(request, self.settings.limits))
        self._require_model(asked.model)
        tokens = self._texts.prompt(asked.prompt, spelled=not asked.add_special_tokens)
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": self._texts.served.positions})

    async def detokenize(self, request: Request) -> Response:
        asked = read(DetokenizeRequest, await json_body(request, self.settings.limits))
        self._require_model(asked.model)
        if asked.tokens and max(asked.tokens) >= self._texts.served.vocabulary_size:
            what = f"a token outside the vocabulary of {self._texts.served.vocabulary_size}"
            raise ApiError(400, what, param="tokens")
        return JSONResponse({"prompt": self._texts.tokenizer.text(asked.tokens)})

    async def completions(self, request: Request) -> Response:
        asked = read(CompletionRequest, await json_body(request, self.settings.limits))
        self._require_model(asked.model)
        self._places.require(len(asked.prompt) * asked.n, self._texts.served.slots, "prompt")
        prompts = [self._texts.prompt(each) if isinstance(each, str) else each for each in asked.prompt]
        draw = asked.draw(asked.logprobs)
        wanted = [
            Wanted(
                self._texts.require_room(tokens, asked.max_tokens),
                draw,
                asked.stops,
                seed_of(asked.seed, choice),
                asked.ignore_eos,
            )
            for tokens in prompts
            for choice in range(asked.n)
        ]
        each_prompt = [tokens for tokens in prompts for _ in range(asked.n)]
        answer = self._writer("completion", asked, logprobs=draw.logprobs is not None)
        return await self._answer(request, answer, each_prompt, wanted, asked)

    async def chat(self, request: Request) -> Response:
        asked = read(ChatRequest, await json_body(request, self.settings.limits))
        self._require_model(asked.model)
        self._places.require(asked.n, self._texts.served.slots, "n")
        tokens, stops = self._texts.chat(asked.messages)
        most = self._texts.require_room(tokens, asked.most, param="messages")
        draw = asked.draw((asked.top_logprobs or 0) if asked.logprobs else None)
        wanted = [
            Wanted(most, draw, [*asked.stops, *stops], seed_of(asked.seed, choice), asked.ignore_eos)
            for choice in range(asked.n)
        ]
        answer = self._writer("chat", asked, logprobs=asked.logprobs)
        return await self._answer(request, answer, [tokens] * asked.n, wanted, asked)

    def _writer(self, kind: str, asked: GeneratingRequest, *, logprobs: bool) -> Answer:
        return Answer(self.settings.name, kind, logprobs, self._texts.tokenizer.text, asked.include_usage)

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
        asked: GeneratingRequest,
    ) -> Response:
        """Of `asked.n` choices for each prompt, in the order of the prompts."""
        with ExitStack() as places:
            places.enter_context(self._places.take(len(wanted), self._texts.served.slots))
            self._texts.require_engine()
            texts = [self._texts.continued(tokens, each) for tokens, each in zip(prompts, wanted, strict=True)]
            if asked.stream:
                events = streamed(answer, texts, asked.n, self.settings.limits.seconds)
                return Events(events, places.pop_all())
            async with within(self.settings.limits.seconds):
                choices = await while_connected(request, gathered(texts))
            return JSONResponse(answer.whole(choices, usage_of(texts, asked.n)))


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


async def _missing(request: Request, error: Exception) -> Response:
    """Neither a path nor a method of this interface; the answer to a wrong method names the right ones."""
    status = getattr(error, "status_code", 404)
    what = f"{request.method} {request.url.path} is not part of this interface"
    code = "not_found" if status == 404 else "method_not_allowed"
    return ApiError(status, what, code=code, headers=getattr(error, "headers", None) or {}).response()


async def _failed(request: Request, error: Exception) -> Response:
    """A mistake of ours, whose traceback the log has."""
    return ApiError(500, "the server failed: see its log", "server_error", code="internal_error").response()
