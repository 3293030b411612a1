"""Whether every program continues a text by the same 64 tokens: the training code, our server, transformers, a step
written by hand, and vLLM or any other server where one is named.

Rounding differs between programs, so the two likeliest tokens may change places where they are all but equal. A text
that differs is a tie if the training code has the two closer than twice what log-probabilities of the programs differ
by; ties are told with their margin.

    uv run python tests/benchmarks/serving_parity.py --vllm PYTHON --server http://127.0.0.1:8080
"""

from __future__ import annotations

import asyncio
import importlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import torch
from measure import Bar, finish, json_option, runs_option
from serving_floor import HandWritten
from serving_load import ask
from serving_programs import BATCHING, HAND_WRITTEN, MODELS, OURS, SERIAL, TINY, VLLM, Model, Server, model_of, served

from penstock.generate import load
from penstock.generate.model import Sampling, TextModel

PROMPTS = (
    "def main(",
    "import os\n",
    "class Reader:\n    def __init__(self",
    "The wheel of mill 7 turns",
    "    return ",
)
TOKENS = 64
IN_PROCESS = "transformers, in process"


@dataclass(frozen=True, slots=True)
class Greedy:
    """A continuation: its text, and the log-probability of each token where the program tells it."""

    text: str
    logprobs: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """What the training code makes of a prompt. `texts` are those of the first tokens, one more each, and `margins` by
    how many nats each token was likelier than any other."""

    prompt: str
    prompt_tokens: list[int]
    tokens: list[int]
    texts: list[str]
    logprobs: list[float]
    margins: list[float]

    def agreed(self, text: str) -> int:
        """How many tokens a text begins with."""
        if _whole(text) == _whole(self.texts[-1]):
            return len(self.tokens)
        return next((index for index, each in enumerate(self.texts) if not text.startswith(each)), len(self.texts) - 1)


def _whole(text: str) -> str:
    """Without bytes at the end that are part of a character, which some programs show and some do not."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


@torch.inference_mode()
def reference(model: TextModel, prompt: str, tokens: int = TOKENS) -> Reference:
    prompt_tokens = model.prompt_tokens(prompt)
    made: list[int] = []
    for token in model.next_tokens(prompt_tokens, Sampling(temperature=0), tokens):
        if token in model.ends:
            break
        made.append(token)
    stream = model.tokenizer.stream(prompt_tokens)
    pieces = [stream.push(token) for token in made]
    texts = ["".join(pieces[: number + 1]) for number in range(len(made))]
    hidden_SD = model.model(torch.tensor([[*prompt_tokens, *made]])).hidden_BSD[0, len(prompt_tokens) - 1 : -1]
    logprob_NV = model.model.logits(hidden_SD).log_softmax(-1)
    best_N2 = logprob_NV.topk(2).values
    chosen_N = logprob_NV.gather(1, torch.tensor(made)[:, None])[:, 0]
    return Reference(prompt, prompt_tokens, made, texts, chosen_N.tolist(), (best_N2[:, 0] - best_N2[:, 1]).tolist())


async def of_server(server: Server, prompt: str, *, tells: bool) -> Greedy:
    """What a server makes of a prompt; `tells` asks it for log-probabilities too."""
    body = {name: value for name, value in server.body.items() if name in ("model", "temperature")}
    more: dict[str, Any] = {"logprobs": 1} if tells else {}
    asked = {"temperature": 0, **body, "prompt": prompt, "max_tokens": TOKENS, **more}
    answer = await ask(server.address, json.dumps(asked).encode())
    if answer.status != 200:
        raise RuntimeError(f"{server.name} answers {answer.status}: {answer.body.decode()}")
    choice = json.loads(answer.body)["choices"][0]
    return Greedy(choice["text"], list(_logprobs(choice.get("logprobs") or {})) if tells else None)


def _logprobs(told: dict[str, Any]) -> Iterator[float]:
    """As completions tell them, or as llama.cpp does, which tells them as chats do."""
    yield from told.get("token_logprobs") or (each["logprob"] for each in told.get("content") or ())


@torch.inference_mode()
def in_process(model: Model, references: Sequence[Reference], text_of: TextModel) -> list[Greedy]:
    """What transformers makes of the prompts, with its log-probabilities."""
    transformers: Any = importlib.import_module("transformers")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model.plain)
    found: list[Greedy] = []
    for each in references:
        given = torch.tensor([each.prompt_tokens])
        made = loaded.generate(given, max_new_tokens=TOKENS, do_sample=False, attention_mask=torch.ones_like(given))[0]
        logprob_SV = loaded(made[None]).logits[0].log_softmax(-1)
        tokens = [token for token in made[len(given[0]) :].tolist() if token not in text_of.ends]
        chosen = logprob_SV[len(given[0]) - 1 :].gather(1, torch.tensor(tokens)[:, None])[:, 0]
        found.append(Greedy(_text(text_of, each, tokens), chosen.tolist()))
    return found


@torch.inference_mode()
def by_hand(model: Model, references: Sequence[Reference], text_of: TextModel) -> list[Greedy]:
    step = HandWritten(model.plain, 1, max(len(each.prompt_tokens) for each in references) + TOKENS)
    return [Greedy(_text(text_of, each, step.greedy(each.prompt_tokens, len(each.tokens)))) for each in references]


def _text(model: TextModel, of: Reference, tokens: Sequence[int]) -> str:
    stream = model.tokenizer.stream(of.prompt_tokens)
    return "".join(stream.push(token) for token in tokens)


def compared(
    engine: str, references: Sequence[Reference], found: Sequence[Greedy], difference: float
) -> dict[str, Any]:
    """A row: `difference` is the largest of log-probabilities of one token, where the engine tells none."""
    agreed = [each.agreed(greedy.text) for each, greedy in zip(references, found, strict=True)]
    told = [
        abs(ours - theirs)
        for each, greedy, count in zip(references, found, agreed, strict=True)
        for ours, theirs in zip(each.logprobs[:count], greedy.logprobs or (), strict=False)
    ]
    largest = max(told, default=difference)
    margins = [each.margins[count] for each, count in zip(references, agreed, strict=True) if count < len(each.tokens)]
    return {
        "engine": engine,
        "equal tokens": sum(agreed),
        "of": sum(len(each.tokens) for each in references),
        "log-probabilities differ by": largest,
        "ties": sum(margin <= 2 * largest for margin in margins),
        "margin of the widest": max(margins, default=None),
        "differ": sum(margin > 2 * largest for margin in margins),
    }


def rows_of(model: Model, servers: Sequence[Server]) -> list[dict[str, Any]]:
    """A row for each program. What rounding makes of log-probabilities is taken from transformers in this process for
    those that tell none."""
    text_model = load(model.run)
    references = [reference(text_model, prompt) for prompt in PROMPTS]
    rows = [compared(IN_PROCESS, references, in_process(model, references, text_model), 0.0)]
    difference = rows[0]["log-probabilities differ by"]
    rows.append(compared(HAND_WRITTEN, references, by_hand(model, references, text_model), difference))
    for server in servers:
        tells = server.name not in (BATCHING, SERIAL)
        found = [asyncio.run(of_server(server, each.prompt, tells=tells)) for each in references]
        rows.append(compared(server.name, references, found, difference))
    return rows


def bar(rows: Sequence[dict[str, Any]]) -> Bar:
    return Bar("texts that differ by more than rounding", sum(row["differ"] for row in rows), 0, at_least=False)


@click.command(help=__doc__)
@click.option("--model", "name", default="1.7M", show_default=True, type=click.Choice([*MODELS, TINY]))
@click.option("--peers/--no-peers", default=True, show_default=True, help="Start `transformers serve`, both ways.")
@click.option("--vllm", metavar="PYTHON", help="A Python that has vLLM.")
@click.option("--server", "urls", multiple=True, metavar="URL", help="A server that runs already, such as llama.cpp's.")
@runs_option
@json_option
def main(name: str, peers: bool, vllm: str | None, urls: tuple[str, ...], runs: Path | None, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        model = model_of(name, runs or folder)
        names = [OURS, *([BATCHING, SERIAL] if peers else []), *([VLLM] if vllm else [])]
        servers = [stack.enter_context(served(each, model, folder, threads=1, vllm=vllm)) for each in names]
        rows = rows_of(model, [*servers, *map(running, urls)])
    finish("serving_parity", rows, [bar(rows)], as_json, model=name, tokens=TOKENS, prompts=len(PROMPTS))


def running(url: str) -> Server:
    """A server that nobody here started."""
    parts = urlsplit(url)
    if parts.hostname is None:
        raise click.BadParameter(f"'{url}' is no URL such as http://127.0.0.1:8080", param_hint="--server")
    process: Any = None
    return Server(url, process, (parts.hostname, parts.port or 80), Path(), {})


if __name__ == "__main__":
    main()
