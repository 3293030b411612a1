"""The server as clients see it: the same texts as `penstock generate`, the field's interface, and every error named."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from servers import Running, serving

from penstock.generate import load

PROMPTS = ["User: Is", "Zwölf 水", "", "Assistant: Zwölf Mühlen laufen 😀."]


@pytest.fixture(scope="module")
def model(trained: Path):
    return load(str(trained))


def test_greedy_texts_are_those_of_generate_alone_and_together(server: Running, model):
    expected = [model.generate(prompt, tokens=64, temperature=0) for prompt in PROMPTS]
    found = [server.completed(prompt, max_tokens=64, temperature=0)["choices"][0]["text"] for prompt in PROMPTS]
    assert found == expected
    together = server.completed(PROMPTS * 2, max_tokens=64, temperature=0)["choices"]
    assert [choice["text"] for choice in together] == expected * 2
    assert [choice["index"] for choice in together] == list(range(8))


def test_a_seed_is_one_text_and_choices_have_seeds_of_their_own(server: Running, model):
    expected = [model.generate("User:", tokens=24, temperature=0.9, seed=seed) for seed in (5, 6, 7)]
    found = server.completed("User:", max_tokens=24, temperature=0.9, seed=5, n=3)
    assert [choice["text"] for choice in found["choices"]] == expected
    unlike = {server.completed("User:", max_tokens=24, temperature=2.0)["choices"][0]["text"] for _ in range(3)}
    assert len(unlike) > 1


def test_usage_counts_tokens_and_what_was_read_before(server: Running, model):
    tokens = model.prompt_tokens("Assistant: Zwölf Mühlen")
    server.completed("Assistant: Zwölf Mühlen", max_tokens=5, ignore_eos=True)
    found = server.completed("Assistant: Zwölf Mühlen", max_tokens=5, ignore_eos=True, n=2)["usage"]
    assert found["prompt_tokens"] == len(tokens)
    assert found["completion_tokens"] == 10
    assert found["total_tokens"] == len(tokens) + 10
    assert found["prompt_tokens_details"] == {"cached_tokens": len(tokens) - 1}


def test_the_official_client_reads_completions_whole_and_streamed(server: Running, model):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [each.id for each in client.models.list()] == ["tiny"]
    expected = model.generate("User: Is mill", tokens=40, temperature=0)
    asked = {"model": "tiny", "prompt": "User: Is mill", "max_tokens": 40, "temperature": 0, "logprobs": 3}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text == expected
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == expected
    assert all("\ufffd" not in chunk.choices[0].text for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (8, 40)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    told = [value for part in parts if part is not None for value in part.token_logprobs or ()]
    assert told == pytest.approx(whole.choices[0].logprobs.token_logprobs, abs=1e-3)
    likeliest = [max(top.values()) for top in whole.choices[0].logprobs.top_logprobs]
    assert likeliest == whole.choices[0].logprobs.token_logprobs
    with pytest.raises(openai.NotFoundError, match="model 'other' not found"):
        client.completions.create(model="other", prompt="a")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_a_text_before_it_wherever_tokens_end(server: Running, model, stream: bool):
    whole = model.generate("User:", tokens=60, temperature=0)
    for stop in (whole[3:6], whole[10:13], whole[-2:]):
        body = {"max_tokens": 60, "temperature": 0, "stop": ["never there", stop]}
        if stream:
            with server.client.stream(
                "POST", "/v1/completions", json={"prompt": "User:", **body, "stream": True}
            ) as response:
                events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
            text, reason = (
                "".join(event["choices"][0]["text"] for event in events),
                events[-1]["choices"][0]["finish_reason"],
            )
        else:
            choice = server.completed("User:", **body)["choices"][0]
            text, reason = choice["text"], choice["finish_reason"]
        assert (text, reason) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/completions", {"prompt": "a", "temprature": 1}, 400, "temprature"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"5": 1}}, 400, "logit_bias"),
        ("/v1/completions", {"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty"),
        ("/v1/completions", {"prompt": "a", "echo": True}, 400, "echo"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "max_tokens": "9"}, 400, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, 400, "temperature"),
        ("/v1/completions", {"prompt": "a", "top_p": 0}, 400, "top_p"),
        ("/v1/completions", {"prompt": "a", "n": 1000}, 400, "n"),
        ("/v1/completions", {"prompt": "a", "stop": ["1", "2", "3", "4", "5"]}, 400, "stop"),
        ("/v1/completions", {"prompt": "a", "stop": ""}, 400, "stop"),
        ("/v1/completions", {"prompt": [300]}, 400, "prompt"),
        ("/v1/completions", {"prompt": [-1]}, 400, "prompt"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 256}, 400, "prompt"),
        ("/v1/completions", {"prompt": "a" * 2000}, 400, "prompt"),
        ("/v1/completions", {"prompt": "a" * 30000}, 413, None),
        ("/v1/completions", {"prompt": ["a"] * 11}, 400, "prompt"),
        ("/v1/completions", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, 400, "tools"),
        ("/v1/embeddings", {"input": "a"}, 404, None),
        ("/detokenize", {"tokens": [300]}, 400, "tokens"),
    ],
)
def test_what_it_does_not_do_is_said_and_never_ignored(server: Running, path, body, status, param):
    response = server.client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text
    assert server.completed("a", max_tokens=1)["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'"a"', b"\xff\xfe", b'{"prompt": ' + b"[" * 9000 + b"}", b"null"]
)
def test_a_body_that_is_no_request_is_refused(server: Running, content: bytes):
    response = server.client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


def test_neutral_values_of_what_it_does_not_do_are_taken(server: Running):
    neutral = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "echo": False,
        "best_of": 1,
        "suffix": None,
    }
    assert server.completed("a", max_tokens=2, user="me", **neutral)["usage"]["completion_tokens"] == 2


def test_tokens_and_texts(server: Running, model):
    for text in PROMPTS:
        tokens = server.post("/tokenize", prompt=text).json()["tokens"]
        assert tokens == (model.prompt_tokens(text))
        plain = server.post("/tokenize", prompt=text, add_special_tokens=False).json()["tokens"]
        assert server.post("/detokenize", tokens=plain).json() == {"prompt": text}
    given, spelled = (server.completed(prompt, max_tokens=9, temperature=0) for prompt in (tokens, PROMPTS[-1]))
    assert given["choices"] == spelled["choices"]


def test_a_client_that_goes_frees_its_place(server: Running, eventually):
    body = {"prompt": "a", "max_tokens": 200, "ignore_eos": True, "n": 10}
    before = made(server)

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=server.url) as client:
            for stream in (False, True):
                task = asyncio.create_task(client.post("/v1/completions", json={**body, "stream": stream}))
                await asyncio.sleep(0.1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    ten = {"prompt": ["a"] * 10, "max_tokens": 2, "ignore_eos": True}
    eventually(lambda: server.post("/v1/completions", **ten).status_code == 200)  # ten texts take all places
    assert made(server) - before < 20 * 200 / 2, "texts went on without their clients"


def made(server: Running) -> float:
    """Tokens that the server has made."""
    found = re.search(r"^penstock_generation_tokens_total\S* (\S+)$", server.client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_many_at_once_have_their_own_texts(server: Running, model):
    asked = [(prompt, 8 + number) for number, prompt in enumerate(PROMPTS[:2] * 4)]
    expected = [model.generate(prompt, tokens=tokens, temperature=0) for prompt, tokens in asked]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda each: server.completed(each[0], max_tokens=each[1], temperature=0), asked)
    assert [each["choices"][0]["text"] for each in found] == expected


def test_keys_are_asked_for_before_anything_is_read(trained: Path, workplace: Path):
    keys = workplace / "keys"
    keys.write_text("first\n\nsecond\n")
    with serving(trained, workplace, "--api-key-file", str(keys), "--slots", "2", "--timeout", "0.001") as running:
        for headers in (
            {},
            {"Authorization": "Bearer third"},
            {"Authorization": "first"},
            {"Authorization": "Basic first"},
        ):
            for path in ("/v1/models", "/v1/completions", "/tokenize", "/nothing"):
                response = running.client.post(path, content=b"{", headers=headers)
                assert response.status_code == 401
        for key in ("first", "second"):
            assert running.client.get("/v1/models", headers={"Authorization": f"bearer {key}"}).status_code == 200
        assert running.client.get("/ready").status_code == 200
        first = {"Authorization": "Bearer first"}
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        untold = running.client.post("/v1/chat/completions", json=chat, headers=first)
        assert (untold.status_code, untold.json()["error"]["code"]) == (400, "no_chat_template")
        assert "/v1/completions" in untold.json()["error"]["message"]
        slow = running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 200}, headers=first)
        assert (slow.status_code, slow.json()["error"]["code"]) == (504, "timeout")
        assert not any(key in running.log.read_text() for key in ("first", "second", "third"))


def test_an_engine_that_dies_is_started_again_and_its_texts_are_answered(trained: Path, workplace: Path, eventually):
    with serving(trained, workplace, "--slots", "2") as running, ThreadPoolExecutor(1) as pool:
        body = {"prompt": "a", "max_tokens": 200, "ignore_eos": True, "n": 8}
        engine = running.engine()
        lost = pool.submit(running.post, "/v1/completions", **body)
        eventually(lambda: running.client.get("/ready").status_code == 200)
        os.kill(engine, signal.SIGKILL)
        response = lost.result()
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2"), response.text
        eventually(lambda: running.client.get("/ready").status_code == 200)
        assert "the engine died: it is started again in 1 s" in running.log.read_text()
        assert running.completed("a", max_tokens=3, ignore_eos=True)["usage"]["completion_tokens"] == 3
        engine = running.engine()
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        eventually(lambda: not Path(f"/proc/{engine}").exists())


def test_a_signal_lets_running_texts_end(trained: Path, workplace: Path):
    with serving(trained, workplace, "--slots", "2") as running, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.completed, "a", max_tokens=250, ignore_eos=True)
        with running.client.stream(
            "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 250, "ignore_eos": True, "stream": True}
        ) as response:
            lines = response.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert asked.result()["usage"]["completion_tokens"] == 250
        assert running.process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere"], "folder not found"),
        (["{trained}", "--port", "{taken}"], "--port: cannot listen at 127.0.0.1"),
        (["{trained}", "--host", "192.0.2.1"], "--host: cannot listen at 192.0.2.1"),
        (["{trained}", "--api-key", ""], "an empty API key"),
        (["{trained}", "--api-key-file", "{empty}"], "has no key"),
        (["{trained}", "--api-key-file", "{trained}"], "cannot be read"),
        (["{trained}", "--chat-template", "nowhere.jinja"], "nowhere.jinja"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(trained: Path, workplace: Path, options, said):
    (workplace / "empty").write_text("\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"trained": trained, "taken": taken.getsockname()[1], "empty": workplace / "empty"}
        command = [
            str(Path(sys.executable).with_name("penstock")),
            "serve",
            *(each.format(**places) for each in options),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said in ended.stderr
    assert ended.returncode in (1, 2)
    assert "Traceback" not in ended.stderr
