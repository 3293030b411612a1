"""What a request takes is given back, a slow body is not waited for, and a chat is written as `penstock chat` does."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.requests import Request

from penstock.generate.chat import Turn, transcript
from penstock.hooks.contracts import Message
from penstock.hooks.problems import ProblemError
from penstock.server.http.answers import LEAST, Answer, Usage
from penstock.server.http.conversations import TRANSCRIPT, conversation, template_of
from penstock.server.http.errors import ApiError
from penstock.server.http.limits import Limits, Places, json_body
from penstock.server.http.streams import Events
from penstock.server.http.texts import TokenTold


def test_a_client_that_is_gone_before_the_first_event_gives_its_place_back():
    places, stack = Places(0), ExitStack()
    stack.enter_context(places.take(1, 1))
    assert places.taken == 1

    async def events():
        yield b"data: never\n\n"

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        await asyncio.sleep(60)  # nobody reads it

    asyncio.run(Events(events(), stack)({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send))
    assert places.taken == 0


def test_a_body_that_does_not_come_is_not_waited_for():
    async def receive():
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(ApiError, match="did not come within") as caught:
        asyncio.run(json_body(Request(scope, receive), Limits(reading=0.01)))
    assert caught.value.status == 408


def test_a_transcript_is_what_penstock_chat_writes():
    messages = [Message("user", "Hello."), Message("assistant", "Good day."), Message("user", "Who are you?")]
    made = conversation(TRANSCRIPT, messages, {}, "test")
    assert made.text == transcript([Turn("Hello.", "Good day."), Turn("Who are you?")])
    assert (made.spelled, made.stops) == (False, ("\nUser:",))
    for wrong in (messages[:2], messages[1:], [Message("system", "Be short."), *messages]):
        with pytest.raises(ApiError, match="in turn") as caught:
            conversation(TRANSCRIPT, wrong, {}, "test")
        assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_template_is_a_file_or_a_name(tmp_path: Path):
    assert template_of(None) is template_of("own") is None
    assert template_of("transcript") == TRANSCRIPT
    good, damaged = tmp_path / "good.jinja", tmp_path / "damaged.jinja"
    good.write_text("{{ messages[0].content }}")
    damaged.write_text("{% for %}")
    assert conversation(template_of(str(good)), [Message("user", "hi")], {}, "test").text == "hi"
    for file, code in ((damaged, "bad-template"), (tmp_path / "nowhere", "missing-file")):
        with pytest.raises(ProblemError) as caught:
            template_of(str(file))
        assert caught.value.problems[0].code == code


def test_impossible_tokens_have_log_probabilities_that_json_can_hold():
    told = TokenTold(1, float("-inf"), ((2, -0.5), (1, float("-inf"))))
    for kind in ("completion", "chat"):
        answer = Answer("tiny", kind, logprobs=True, spelled=lambda tokens: f"<{tokens[0]}>")
        logprobs = answer.whole([("<1>", "length", [told])], Usage())["choices"][0]["logprobs"]
        if kind == "chat":
            (token,) = logprobs["content"]
            assert (token["logprob"], token["top_logprobs"][1]["logprob"]) == (LEAST, LEAST)
        else:
            assert logprobs["token_logprobs"] == [LEAST]
            assert logprobs["top_logprobs"] == [{"<2>": -0.5, "<1>": LEAST}]
