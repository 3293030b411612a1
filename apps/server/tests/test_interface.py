"""The interface as a hostile or a careless client meets it: what is not honoured is refused by name, and the engine
outlives it all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from servers import Running

from penstock.data_prep.chat_template import written
from penstock.generate import load
from penstock.generate.model import Sampling
from penstock.hooks.contracts import Message

JSON = {"Content-Type": "application/json"}
CHAT: list[Any] = [{"role": "user", "content": "Is mill 3 open?"}]


@pytest.fixture(scope="module")
def model(trained: Path):
    return load(str(trained))


@pytest.fixture(scope="module", autouse=True)
def _the_engine_lives(server: Running) -> Iterator[None]:
    engine = server.engine()
    yield
    assert server.engine() == engine


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"max_tokens": 10**30}, "prompt"),
        ({"max_tokens": 2.0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"top_k": 2**31}, "top_k"),
        ({"top_k": 0.01}, "top_k"),
        ({"top_k": -2}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 11}, "prompt"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": 5}, "stop"),
        ({"stream": "true"}, "stream"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"prompts": ["a"]}, "prompts"),
        ({"top-p": 1}, "top-p"),
        ({"x" * 9000: None}, "x" * 500 + "..."),
    ],
)
def test_fields_of_completions(server: Running, fields: dict[str, Any], param: str):
    response = server.client.post("/v1/completions", json={"prompt": "a", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert len(response.text) < 2000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [*CHAT, {"role": "assistant", "content": None}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": "a", "name": "me"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [5] * 5000}, "messages.0"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"n": 11}, "n"),
        ({"max_tokens": 300}, "messages"),
    ],
)
def test_fields_of_chats(server: Running, fields: dict[str, Any], param: str):
    response = server.client.post("/v1/chat/completions", json={"messages": CHAT, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_a_null_asks_for_nothing(server: Running):
    names = ("temperature", "top_p", "top_k", "n", "stream", "stream_options", "stop", "seed", "ignore_eos", "user")
    nulls = dict.fromkeys((*names, "model", "max_tokens", "logprobs", "logit_bias", "metadata"))
    assert server.completed("a", **nulls)["usage"]["completion_tokens"] <= 16
    messages = [{**each, "name": None, "tool_calls": None} for each in CHAT]
    nulls |= dict.fromkeys(("max_completion_tokens", "top_logprobs", "tools", "response_format"))
    response = server.post("/v1/chat/completions", messages=messages, **(nulls | {"max_tokens": 3}))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": -Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "\\ud83d"}',
        b'{"prompt": "\xfc"}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"prompt": "a"} {}',
        b'{"prompt": ' + b'{"a":' * 1500 + b"1" + b"}" * 1501,
        b'{"prompt": ' + b"[" * 9000 + b"]" * 9000 + b"}",
    ],
)
def test_what_is_no_json_for_everybody_is_none(server: Running, content: bytes):
    response = server.client.post("/v1/completions", content=content, headers=JSON)
    assert response.status_code == 400, response.text
    assert len(response.text) < 2000


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=application/json"},
        {**JSON, "Content-Encoding": "gzip"},
    ],
)
def test_a_body_of_another_type_is_refused(server: Running, headers: dict[str, str]):
    response = server.client.post("/v1/completions", content=b'{"prompt": "a"}', headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in response.json()["error"]["message"]
    charset = {"Content-Type": "Application/JSON; charset=utf-8"}
    taken = server.client.post("/v1/completions", content=b'{"prompt": "a", "max_tokens": 1}', headers=charset)
    assert taken.status_code == 200


def test_paths_and_methods(server: Running):
    def asked(method: str, path: str) -> httpx.Response:
        return server.client.request(method, path)

    described = asked("GET", "/v1/models/tiny").json()
    assert described == asked("GET", "/v1/models").json()["data"][0]
    assert (described["id"], described["object"], described["max_model_len"]) == ("tiny", "model", 256)
    for name in ("other", "a/b", ""):
        missing = asked("GET", f"/v1/models/{name}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    for method, path, allowed in (
        ("GET", "/v1/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models/tiny", "GET"),
        ("POST", "/v1/models", "GET"),
    ):
        response = asked(method, path)
        assert response.status_code == 405
        assert allowed in response.headers["Allow"]
        assert response.json()["error"]["code"] == "method_not_allowed"
    for path, status in (("/v1/models", 200), ("/health", 200), ("/v1/completions", 405), ("/nowhere", 404)):
        response = asked("HEAD", path)
        assert (response.status_code, response.content) == (status, b"")
    for path in ("/", "/v1", "/v1/completions/", "/V1/models", "/v1/../metrics/x"):
        assert asked("POST", path).status_code == 404
    labels = server.client.get("/metrics").text
    assert 'path="/v1/models/{name:path}"' in labels
    assert "/v1/models/other" not in labels


def test_extremes_of_what_is_honoured_are_computed(server: Running):
    for fields in (
        {"top_k": 2**31 - 1, "temperature": 2},
        {"top_p": 5e-324, "temperature": 1e-4},
        {"temperature": 5e-324, "top_k": -1},
        {"logprobs": 20, "seed": -(2**63)},
        {"seed": 2**63 - 1, "n": 3},
        {"stop": ["\u0000", "x" * 5000, "\ufffd\ufffd\ufffd\ufffd", "\n" * 50]},
    ):
        found = server.completed("a", max_tokens=3, ignore_eos=True, **fields)
        assert found["usage"]["completion_tokens"] == 3 * fields.get("n", 1)
    assert server.completed("a" * 3, max_tokens=1)["choices"][0]["finish_reason"] in ("length", "stop")


def test_a_prompt_of_text_and_one_of_its_tokens_are_one(server: Running, model):
    texts = ["User:", "Zw\u00f6lf"]
    tokens = [model.prompt_tokens(text) for text in texts]
    asked = {"max_tokens": 8, "temperature": 0}
    found = [server.completed(prompt, **asked)["choices"] for prompt in (texts, tokens)]
    assert found[0] == found[1]
    assert server.completed(tokens[0], **asked)["choices"][0]["text"] == found[0][0]["text"]


def test_log_probabilities_of_parts_of_characters_have_no_bytes(server: Running):
    asked = {"messages": CHAT, "max_tokens": 60, "temperature": 2, "seed": 4, "logprobs": True, "top_logprobs": 3}
    choice = server.post("/v1/chat/completions", **asked, ignore_eos=True).json()["choices"][0]
    told = choice["logprobs"]["content"]
    assert len(told) == 60
    for each in (*told, *(other for token in told for other in token["top_logprobs"])):
        if each["bytes"] is None:
            assert "\ufffd" in each["token"]
        else:
            assert bytes(each["bytes"]).decode() == each["token"]
    assert any(each["bytes"] is None for each in told)
    assert any(each["bytes"] is not None for each in told)


def test_a_chat_is_what_the_template_makes_of_it_and_a_reply_can_be_given_back(server: Running, model, template: Path):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "system", "content": "Be short."}, *CHAT]
    for _ in range(2):
        turns = [Message(each["role"], each["content"]) for each in messages]
        special = {"eos_token": "<|endoftext|>"}
        text = written(template.read_text(), turns, special, "test")
        tokens = model.prompt_tokens(text, spelled=True)
        assert tokens[0] == model.begins[0]
        expected = "".join(model.continued(tokens, Sampling(tokens=12, temperature=0.0)))
        asked = {"model": "tiny", "messages": messages, "max_completion_tokens": 12, "temperature": 0}
        reply = client.chat.completions.create(**asked)
        assert reply.choices[0].message.content == expected
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
        assert (chunks[0].choices[0].delta.role, chunks[-1].choices) == ("assistant", [])
        assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
        told = [each.usage.total_tokens for each in (chunks[-1], reply) if each.usage is not None]
        assert told == [len(tokens) + 12] * 2
        messages += [reply.choices[0].message.model_dump(), {"role": "user", "content": "So?"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Is mill "}, {"type": "text", "text": "3 open?"}]}]
    whole, split = (
        server.post("/v1/chat/completions", messages=each, max_tokens=9, temperature=0).json()["choices"]
        for each in (CHAT, parts)
    )
    assert whole == split


def test_messages_that_the_template_refuses_are_the_client_s_mistake(server: Running):
    messages = [{"role": "user", "content": "raise"}]
    response = server.post("/v1/chat/completions", messages=messages)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")
    assert "not today" in response.json()["error"]["message"]


def test_a_stream_without_options_has_no_usage(server: Running):
    asked = {"prompt": "a", "max_tokens": 3, "stream": True, "ignore_eos": True}
    for options, told in (
        (None, False),
        ({}, False),
        ({"include_usage": False}, False),
        ({"include_usage": True}, True),
    ):
        lines = server.post("/v1/completions", **asked, stream_options=options).text.split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        assert [("usage" in event) for event in events] == [told] * len(events)
        assert bool(events[-1].get("usage")) == told


def test_a_full_queue_asks_to_come_again(server: Running):
    body = {"prompt": "a", "max_tokens": 250, "ignore_eos": True, "n": 10}
    with ThreadPoolExecutor(4) as pool:
        answers = [each.result() for each in [pool.submit(server.post, "/v1/completions", **body) for _ in range(4)]]
    assert {each.status_code for each in answers} == {200, 429}
    assert {each.headers["Retry-After"] for each in answers if each.status_code == 429} == {"1"}
