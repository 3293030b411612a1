"""The programs of `serving.py`, each in processes of its own, and the models that they serve.

Models are runs of the quickstart with other sizes, trained for one step: a server takes as long for weights that know
nothing. Their embeddings are tied, so that they repeat a word, which is text of whole characters.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from quickstart import trained_run
from serving_load import Address, Answer, ask
from serving_trace import Request, Words

from penstock.cli.main import run

FLOOR = Path(__file__).with_name("serving_floor.py")
SLOTS, CONTEXT = 32, 512
START = 300.0
"""Seconds that a program has to start; vLLM compiles."""
STEP = ("train.tokens=2048", "train.evaluate_tokens=2048", "train.trackers=[jsonl]")
WIDE = ("model.num_hidden_layers=6", "model.num_attention_heads=8", "model.num_key_value_heads=4")
MODELS: Mapping[str, Sequence[str]] = {
    "1.7M": ("train.tokens=100_000", *STEP[1:]),
    "12.7M": (
        *STEP,
        *WIDE,
        "model.hidden_size=256",
        "model.intermediate_size=704",
        "model.moe_intermediate_size=288",
    ),
    "50M": (
        *STEP,
        *WIDE,
        "model.hidden_size=512",
        "model.head_dim=64",
        "model.intermediate_size=2176",
        "model.moe_intermediate_size=576",
    ),
}
TINY = "tiny"
TINY_SETTINGS = (
    *STEP,
    "data.tokenizer.vocab_size=400",
    "data.sequence_length=64",
    "data.heldout_share=0.3",
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.head_dim=16",
    "model.intermediate_size=32",
    "model.moe_intermediate_size=16",
    "model.n_routed_experts=4",
)


@dataclass(frozen=True)
class Model:
    """A run, and what it was exported to: `plain` for transformers, `untied` for vLLM."""

    run: Path
    plain: Path
    untied: Path

    @cached_property
    def words(self) -> Words:
        return Words(tokenizers.Tokenizer.from_file(str(self.plain / "tokenizer.json")))


def model_of(name: str, runs: Path) -> Model:
    """Trains and exports a model of `MODELS`, or the tiny one; a folder of runs keeps it."""
    settings = _tiny(runs) if name == TINY else MODELS[name]
    trained = trained_run(runs, *settings, name=f"serving-{name}").path
    model = Model(trained, trained / "export-plain", trained / "export-untied")
    for folder, engine in ((model.plain, "transformers"), (model.untied, "vllm")):
        if not folder.exists():
            with redirect_stdout(sys.stderr):
                options = ("--format", f"{{use: hf, dtype: float32, engine: {engine}}}", "--out", str(folder))
                run(["export", str(trained), *options])
    return model


def _tiny(runs: Path) -> Sequence[str]:
    """The settings of the tiny model, whose corpus is written first."""
    corpus = runs / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        lines = (f"The wheel of mill {number} turns while water runs over the weir {each}.\n" for each in range(20))
        (corpus / f"{number}.txt").write_text("".join(lines), encoding="utf-8")
    return [*TINY_SETTINGS, f"data.corpus={{use: text, paths: ['{corpus}']}}"]


@dataclass(frozen=True)
class Server:
    """A server in a group of processes. `body` are the fields of every request, besides prompt and length, and
    `start_seconds` those from the command to the first answer."""

    name: str
    process: subprocess.Popen[bytes]
    address: Address
    log: Path
    body: Mapping[str, Any]
    start_seconds: float = 0.0

    async def send(self, request: Request) -> Answer:
        """A streamed completion of exactly so many tokens."""
        return await ask(self.address, json.dumps(self.asked(request.prompt, request.tokens, stream=True)).encode())

    def asked(self, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
        return {**self.body, "prompt": prompt, "max_tokens": tokens, **more}

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Outside of this the program does not run, so that it takes nothing from another's measurement."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


class OfTransformers(Server):
    """`transformers serve`, which has no `ignore_eos`, and no token -1 to end at."""

    def asked(self, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
        config = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        return {**super().asked(prompt, tokens, **more), "generation_config": json.dumps(config)}


OURS, BATCHING, SERIAL, VLLM = "penstock", "transformers, batching", "transformers", "vLLM"
HAND_WRITTEN = "hand-written step"
PENSTOCK_BODY = {"temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}


def command_of(name: str, model: Model, port: int, threads: int, vllm: str | None = None) -> list[str]:
    """How a program is started, as its user would."""
    scripts = Path(sys.executable).parent
    at = ["--host", "127.0.0.1", "--port", str(port)]
    if name == OURS:
        sizes = ["--threads", str(threads), "--slots", str(SLOTS), "--context", str(CONTEXT)]
        return [str(scripts / "penstock"), "serve", str(model.run), *at, *sizes]
    if name == VLLM:
        served = ["--model", str(model.untied), "--served-model-name", "served", "--dtype", "float32"]
        lengths = ["--max-model-len", str(CONTEXT)]
        return [str(vllm), "-m", "vllm.entrypoints.openai.api_server", *served, *lengths, *at]
    batching = ["--continuous-batching", "--attn-implementation", "sdpa"] if name == BATCHING else []
    return [str(scripts / "transformers"), "serve", str(model.plain), *batching, *at]


@contextmanager
def served(name: str, model: Model, folder: Path, *, threads: int, vllm: str | None = None) -> Iterator[Server]:
    """A program that has answered. Raises RuntimeError with the end of its log for one that does not start."""
    port = free_port()
    kinds: dict[str, tuple[type[Server], dict[str, Any]]] = {
        OURS: (Server, PENSTOCK_BODY),
        VLLM: (Server, {**PENSTOCK_BODY, "model": "served"}),
    }
    kind, body = kinds.get(name, (OfTransformers, {"model": str(model.plain)}))
    log, begun = folder / f"{port}.log", time.monotonic()
    with started(command_of(name, model, port, threads, vllm), log, threads) as process:
        server = kind(name, process, ("127.0.0.1", port), log, body)
        _wait(server)
        yield replace(server, start_seconds=time.monotonic() - begun)


@contextmanager
def started(command: Sequence[str], log: Path, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a group of its own, of which nothing is left afterwards."""
    threaded = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    of_vllm = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    environment = {**os.environ, **threaded, **of_vllm, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(server: Server) -> None:
    """Until it has continued a text."""
    until = time.monotonic() + START
    while (answer := asyncio.run(server.send(Request("The", 1)))).tokens != 1:
        if answer.status or server.process.poll() is not None or time.monotonic() > until:
            said = server.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            why = answer.error or (said[-1] if said else "it said nothing")
            raise RuntimeError(f"{server.name} did not start: {why}")
        time.sleep(0.01)


def get(address: Address, path: str) -> tuple[int, str]:
    """Status and body; status 0 where nobody answers."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Steps:
    """The process of the hand-written step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def rate(self, rows: int, seconds: float) -> float:
        """Tokens a second of so many rows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{rows} {seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def hand_written(model: Model, threads: int) -> Iterator[Steps]:
    command = [sys.executable, str(FLOOR), str(model.plain), str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield Steps(process)
        assert process.stdin is not None
        process.stdin.close()
